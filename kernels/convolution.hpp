// SPDX-License-Identifier: Apache-2.0
// Convolution of images with filters, in groups if need be, and its gradients.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"
#include "kernels/window.hpp"

namespace tessera {

// x, dx: (N, H, W, C)   w, dw: (K, R, S, C / G)   y, dy: (N, P, Q, K)   bias: (K) f32; (R, S) is the window's size,
// (P, Q) what it has outputs.
// Channels come last (NHWC, filters KRSC): what a pixel's window covers is then whole runs of memory and a product's
// result is y as it lies, so that nothing is transposed; tensor cores and cuDNN's kernels for bf16 and f16 want the
// same order, and rows that ranks exchange at the edges of their strips are whole.
struct Convolution {
    std::int64_t batch = 0, height = 0, width = 0, channels = 0; // N, H, W, C
    std::int64_t filters = 0, groups = 1;                        // K, G: both C and K are multiples of G
    Window window;

    std::int64_t out_height() const { return window.height.outputs(height); }
    std::int64_t out_width() const { return window.width.outputs(width); }
    std::int64_t pixels() const { return batch * out_height() * out_width(); } // of y
    std::int64_t group_channels() const { return channels / groups; }
    std::int64_t group_filters() const { return filters / groups; }
    std::int64_t taps() const { return window.taps() * group_channels(); } // that one output is a sum of
};

// Types are f32, bf16 or f16, the same for x, w, y, dx and dy; dw is f32. Sums are taken in fp32, whatever the types.
// Views may have any shape with the right count, else InternalError. Results overlap no operand. A workspace holds what
// the function beside says, of any type, aligned to 64 bytes, and may be null where that is 0. The same bits in each
// run and, on the CPU, for any number of threads.
// On the CPU: through oneDNN what cpu/convolution_onednn.cpp lists, where that was found; else in f32 a window of 3 x 3
// with stride 1, of one group, on and into 32 channels or more in sixteens, and 64 quads (2 x 2 results) or more, by
// F(2 x 2, 3 x 3) of Winograd, 16 products in place of 36 (cpu/winograd.hpp: its error is about that of the longer
// sums; an infinite or NaN pixel reaches all quads that look at it in a patch of 4 x 4); else in f32 tiles of a product
// find a window's words in the image itself, of which at most a piece is copied with the zeros around it; else windows
// are gathered into rows (im2col; Chellapilla et al. 2006), so many as a cache holds at a time, and multiplied; where
// each channel has its own filter, sixteen channels are summed side by side instead. On the GPU: an engine of cuDNN
// that gives the same bits in each run, sums in f32 and fits the workspace, where the library says that it has one and
// all views are aligned to 16 bytes; else one tiled product that finds its factors by their places, for any device.
// The bits depend on the shape, the types and that alignment.
namespace kernels {

// With c over the channels of k's group g:
// y[n,p,q,k] = bias[k] + sum_{r,s,c} x[n, p * stride - before + r * dilation, (the same of q and s), c] * w[k,r,s,c]
// x is 0 outside the image. A bias with null data stands for none.
void convolution(CpuStream& stream, const Convolution& shape, ConstView x, ConstView w, ConstView bias, View y,
                 View workspace);
void convolution(CudaStream& stream, const Convolution& shape, ConstView x, ConstView w, ConstView bias, View y,
                 View workspace);

// dx[n,h,v,c] = sum over all (p, q, k, r, s) whose product has x[n,h,v,c] of dy[n,p,q,k] * w[k,r,s,c]. No
// multiplication is wasted on the CPU where the stride leaves gaps.
void convolution_input_gradient(CpuStream& stream, const Convolution& shape, ConstView dy, ConstView w, View dx,
                                View workspace);
void convolution_input_gradient(CudaStream& stream, const Convolution& shape, ConstView dy, ConstView w, View dx,
                                View workspace);

// dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] * x[n, p * stride - before + r * dilation, (the same of q and s), c]
// The gradient of the bias is sum_rows of dy (kernels/reduce.hpp).
void convolution_weight_gradient(CpuStream& stream, const Convolution& shape, ConstView dy, ConstView x, View dw,
                                 View workspace);
void convolution_weight_gradient(CudaStream& stream, const Convolution& shape, ConstView dy, ConstView x, View dw,
                                 View workspace);

// Bytes of the workspaces, by the type of x and w. InternalError for a shape that is none: negative sizes, groups that
// do not divide the channels.
std::int64_t convolution_workspace_bytes(const CpuStream& stream, const Convolution& shape, DType dtype,
                                         bool bias = false);
std::int64_t convolution_workspace_bytes(const CudaStream& stream, const Convolution& shape, DType dtype,
                                         bool bias = false);
std::int64_t convolution_input_gradient_workspace_bytes(const CpuStream& stream, const Convolution& shape, DType dtype);
std::int64_t convolution_input_gradient_workspace_bytes(const CudaStream& stream, const Convolution& shape,
                                                        DType dtype);
std::int64_t convolution_weight_gradient_workspace_bytes(const CpuStream& stream, const Convolution& shape,
                                                         DType dtype);
std::int64_t convolution_weight_gradient_workspace_bytes(const CudaStream& stream, const Convolution& shape,
                                                         DType dtype);

} // namespace kernels
} // namespace tessera
