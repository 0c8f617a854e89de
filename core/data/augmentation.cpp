// SPDX-License-Identifier: Apache-2.0
// Four random words tell all that happens to an image: shift down, shift right, flip; and two more the place of the
// cutout.
#include "core/data/augmentation.hpp"

#include "kernels/random.hpp"

#include <algorithm>

namespace tessera {
namespace {

// In [0, bound), of one word.
std::int64_t below(std::uint32_t word, std::int64_t bound) {
    return static_cast<std::int64_t>(std::uint64_t{word} * static_cast<std::uint64_t>(bound) >> 32);
}

// y[h,w,:] = x[h + down, (w, or from the right) + right, :], black outside
void move(const std::vector<float>& x, const Shape& shape, std::int64_t down, std::int64_t right, bool flip,
          float black, float* y) {
    const std::int64_t height = shape[0], width = shape[1], channels = shape[2];
    for (std::int64_t h = 0; h < height; ++h)
        for (std::int64_t w = 0; w < width; ++w, y += channels) {
            const std::int64_t row = h + down, column = (flip ? width - 1 - w : w) + right;
            if (row < 0 || row >= height || column < 0 || column >= width)
                std::fill_n(y, channels, black);
            else
                std::copy_n(x.data() + (row * width + column) * channels, channels, y);
        }
}

} // namespace

void Augmentation::apply(std::int64_t epoch, std::int64_t sample, float black, const View& image,
                         std::vector<float>& room) const {
    const auto words = [&](std::string_view name) {
        return random_words(random_key(seed, name), static_cast<std::uint64_t>(epoch),
                            static_cast<std::uint64_t>(sample));
    };
    auto* pixels = image.as<float>();
    const Shape& shape = image.shape;
    if (crop_padding > 0 || flip) {
        const auto drawn = words("augmentation.crop");
        room.assign(pixels, pixels + image.count());
        const std::int64_t places = 2 * crop_padding + 1;
        move(room, shape, below(drawn[0], places) - crop_padding, below(drawn[1], places) - crop_padding,
             flip && drawn[2] >> 31 != 0, black, pixels);
    }
    if (cutout == 0) return;
    const auto drawn = words("augmentation.cutout");
    const std::int64_t top = below(drawn[0], shape[0]) - cutout / 2, left = below(drawn[1], shape[1]) - cutout / 2;
    for (std::int64_t h = std::max<std::int64_t>(top, 0); h < std::min(top + cutout, shape[0]); ++h) {
        const std::int64_t begin = std::max<std::int64_t>(left, 0), end = std::min(left + cutout, shape[1]);
        std::fill_n(pixels + (h * shape[1] + begin) * shape[2], std::max<std::int64_t>(end - begin, 0) * shape[2],
                    0.0f);
    }
}

} // namespace tessera
