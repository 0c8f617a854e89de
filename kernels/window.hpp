// SPDX-License-Identifier: Apache-2.0
// The window of a convolution or a pooling: which places of an image one output pixel looks at.
#pragma once

#include <compare>
#include <cstdint>

namespace tessera {

// Along one dim: output i looks at the inputs i * stride - before + tap * dilation, tap in [0, size). Places outside
// the input are padding. The two sides are padded each on its own: a rank that holds a strip of an image is given its
// neighbours' rows on inner sides, and pads at the image's edge only.
struct WindowDim {
    std::int64_t size = 1, stride = 1, dilation = 1;
    std::int64_t before = 0, after = 0; // padding: top and bottom, or left and right

    std::int64_t extent() const { return dilation * (size - 1) + 1; } // from the first tap to the last
    std::int64_t outputs(std::int64_t length) const {
        const std::int64_t rest = length + before + after - extent();
        return rest < 0 ? 0 : rest / stride + 1;
    }
    bool is_valid() const { return size >= 1 && stride >= 1 && dilation >= 1 && before >= 0 && after >= 0; }
    auto operator<=>(const WindowDim&) const = default;
};

struct Window {
    WindowDim height, width;

    std::int64_t taps() const { return height.size * width.size; }
    auto operator<=>(const Window&) const = default;
};

} // namespace tessera
