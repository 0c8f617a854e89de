// SPDX-License-Identifier: Apache-2.0
// What ops on images refuse of windows. Private to core/ops.
#pragma once

#include "core/ops/expect.hpp"
#include "kernels/window.hpp"

namespace tessera {

// x: (N, H, W, C), as large as the window at least, padding included.
inline void expect_image(const TensorType& x, const Window& window) {
    expect_floating("x", x.dtype);
    const Shape& shape = x.shape;
    if (shape.rank() != 4)
        throw ConfigError(fmt::format("x is {}, expected (batch, height, width, channels)", shape.text()));
    const auto& [height, width] = window;
    if (!height.is_valid() || !width.is_valid())
        throw ConfigError("the window's size, stride or dilation is below 1 or its padding negative, expected neither");
    if (height.outputs(shape[1]) == 0 || width.outputs(shape[2]) == 0)
        throw ConfigError(fmt::format("x is {} and padded by {} and {}, expected at least the window's {} x {}",
                                      shape.text(), height.before + height.after, width.before + width.after,
                                      height.extent(), width.extent()));
}

inline Shape windowed(const Shape& x, const Window& window, std::int64_t channels) {
    return {x[0], window.height.outputs(x[1]), window.width.outputs(x[2]), channels};
}

} // namespace tessera
