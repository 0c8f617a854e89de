// SPDX-License-Identifier: Apache-2.0
// Images changed by chance, another way in each epoch: a function of seed, epoch and sample, never of rank or order.
#pragma once

#include "kernels/tensor.hpp"

#include <cstdint>
#include <vector>

namespace tessera {

struct Augmentation {
    std::uint64_t seed = 0;
    std::int64_t crop_padding =
        0;                   // the image is padded by so many black pixels on each side, and as much cut off again
    bool flip = false;       // left and right are exchanged in half of all cases
    std::int64_t cutout = 0; // side of a square of mean grey around any pixel (DeVries and Taylor 2017); 0: none

    bool changes() const { return crop_padding > 0 || flip || cutout > 0; }

    // image: (H, W, C) f32, normalised: the mean is 0   black: what a pixel of 0 has become. `room` is kept for the
    // next.
    void apply(std::int64_t epoch, std::int64_t sample, float black, const View& image, std::vector<float>& room) const;
};

} // namespace tessera
