// SPDX-License-Identifier: Apache-2.0
// The window of a convolution or a pooling, as a config says it. Private to core/layers.
#pragma once

#include "core/layers/catalog.hpp"
#include "kernels/window.hpp"

#include <utility>

namespace tessera::layers {

// From the keys kernel, stride, padding and dilation. `stride`: where none is said; 0: the kernel's size.
Window window_of(const ConfigItem& item, std::int64_t stride);

// Height and width, at least `least` each; one number is both.
std::pair<std::int64_t, std::int64_t> pair_in(const ConfigItem& item, const Key<std::vector<std::int64_t>>& key,
                                              std::int64_t least);

// ConfigError for what is no (batch, height, width, channels).
void expect_image_of(const Shape& shape);

} // namespace tessera::layers
