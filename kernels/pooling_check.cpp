// SPDX-License-Identifier: Apache-2.0
// The checks of poolings and their sentences.
#include "kernels/pooling_check.hpp"

#include "kernels/check.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera::kernels {

void check_pooling(std::string_view kernel, const Pooling& shape, const ConstView& x, const ConstView& y) {
    if (std::min({shape.batch, shape.height, shape.width, shape.channels}) < 0)
        throw InternalError(
            fmt::format("{}: images ({}, {}, {}, {})", kernel, shape.batch, shape.height, shape.width, shape.channels));
    if (!shape.window.height.is_valid() || !shape.window.width.is_valid())
        throw InternalError(
            fmt::format("{}: a window with a size, stride or dilation below 1 or a negative padding", kernel));
    check_count(kernel, "the image", x, shape.inputs());
    check_count(kernel, "the output", y, shape.outputs());
    if (x.dtype != y.dtype)
        throw InternalError(
            fmt::format("{}: the image is {}, the output {}", kernel, name_of(x.dtype), name_of(y.dtype)));
}

} // namespace tessera::kernels
