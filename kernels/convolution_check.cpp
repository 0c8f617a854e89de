// SPDX-License-Identifier: Apache-2.0
// The checks of convolutions and their sentences.
#include "kernels/convolution_check.hpp"

#include "kernels/check.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera::kernels {

void check_convolution(std::string_view kernel, const Convolution& shape) {
    if (std::min({shape.batch, shape.height, shape.width, shape.channels, shape.filters}) < 0 || shape.groups < 1)
        throw InternalError(fmt::format("{}: images ({}, {}, {}, {}), {} filters, {} groups", kernel, shape.batch,
                                        shape.height, shape.width, shape.channels, shape.filters, shape.groups));
    if (shape.channels % shape.groups != 0 || shape.filters % shape.groups != 0)
        throw InternalError(fmt::format("{}: {} channels and {} filters in {} groups", kernel, shape.channels,
                                        shape.filters, shape.groups));
    if (!shape.window.height.is_valid() || !shape.window.width.is_valid())
        throw InternalError(
            fmt::format("{}: a window with a size, stride or dilation below 1 or a negative padding", kernel));
}

void check_convolution(std::string_view kernel, const Convolution& shape, const ConstView& x, const ConstView& w,
                       const ConstView& y) {
    check_convolution(kernel, shape);
    check_count(kernel, "the image", x, shape.batch * shape.height * shape.width * shape.channels);
    check_count(kernel, "the weight", w, shape.filters * shape.taps());
    check_count(kernel, "the output", y, shape.pixels() * shape.filters);
    if (x.dtype != y.dtype)
        throw InternalError(
            fmt::format("{}: the image is {}, the output {}", kernel, name_of(x.dtype), name_of(y.dtype)));
}

} // namespace tessera::kernels
