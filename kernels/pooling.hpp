// SPDX-License-Identifier: Apache-2.0
// Pooling: the largest or the mean of what a window covers, channel by channel, and the gradients.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"
#include "kernels/window.hpp"

namespace tessera {

// x, dx: (N, H, W, C)   y, dy: (N, P, Q, C), (P, Q) being what the window has outputs   taps: like y, i32
struct Pooling {
    std::int64_t batch = 0, height = 0, width = 0, channels = 0; // N, H, W, C
    Window window;

    std::int64_t out_height() const { return window.height.outputs(height); }
    std::int64_t out_width() const { return window.width.outputs(width); }
    std::int64_t inputs() const { return batch * height * width * channels; }
    std::int64_t outputs() const { return batch * out_height() * out_width() * channels; }
};

// Types are f32, bf16 or f16, the same for all but taps; sums are fp32 and rounded once. Views may have any shape with
// the right count, else InternalError; InternalError too for a window that is none. Results overlap no operand. The
// same bits for any number of threads, and on every kind of device up to the contraction of a multiplication and an
// addition.
namespace kernels {

// y = the largest of the window's elements in the image; padding never is. taps = where it was found, r * S + s of the
// window (R, S): the first of equals, in rows. A NaN is larger than all. A window in padding alone has y = -infinity
// and tap -1.
void max_pool(CpuStream& stream, const Pooling& shape, ConstView x, View y, View taps);
void max_pool(CudaStream& stream, const Pooling& shape, ConstView x, View y, View taps);

// dx = the sum of dy over the windows in which the element was found.
void max_pool_gradient(CpuStream& stream, const Pooling& shape, ConstView dy, ConstView taps, View dx);
void max_pool_gradient(CudaStream& stream, const Pooling& shape, ConstView dy, ConstView taps, View dx);

// y = the sum of the window's elements in the image, divided by the window's taps (count_padding: padding counts as
// zeros), or by those in the image; 0 where there are none.
void average_pool(CpuStream& stream, const Pooling& shape, bool count_padding, ConstView x, View y);
void average_pool(CudaStream& stream, const Pooling& shape, bool count_padding, ConstView x, View y);

// dx = the sum of dy over the windows that cover the element, each divided as above.
void average_pool_gradient(CpuStream& stream, const Pooling& shape, bool count_padding, ConstView dy, View dx);
void average_pool_gradient(CudaStream& stream, const Pooling& shape, bool count_padding, ConstView dy, View dx);

} // namespace kernels
} // namespace tessera
