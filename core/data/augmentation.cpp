// SPDX-License-Identifier: Apache-2.0
// Four random words tell all that happens to an image: shift down, shift right, flip; and two more the place of the
// cutout. The share of a mixture takes four of its own.
#include "core/data/augmentation.hpp"

#include "kernels/error.hpp"
#include "kernels/random.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <numbers>
#include <tuple>

namespace tessera {
namespace {

// In [0, bound), of one word.
std::int64_t below(std::uint32_t word, std::int64_t bound) {
    return static_cast<std::int64_t>(std::uint64_t{word} * static_cast<std::uint64_t>(bound) >> 32);
}

// y[h,w,:] = x[h + down, (w, or from the right) + right, :], black outside
void move(const std::vector<float>& x, const Shape& shape, std::int64_t down, std::int64_t right, bool flip,
          std::span<const float> black, float* y) {
    const std::int64_t height = shape[0], width = shape[1], channels = shape[2];
    for (std::int64_t h = 0; h < height; ++h)
        for (std::int64_t w = 0; w < width; ++w, y += channels) {
            const std::int64_t row = h + down, column = (flip ? width - 1 - w : w) + right;
            if (row < 0 || row >= height || column < 0 || column >= width)
                std::ranges::copy(black, y);
            else
                std::copy_n(x.data() + (row * width + column) * channels, channels, y);
        }
}

// In (0, 1), of two words.
double between(std::uint32_t high, std::uint32_t low) {
    const std::uint64_t bits = (std::uint64_t{high} << 32 | low) >> 12;
    return (static_cast<double>(bits) + 0.5) * 0x1p-52;
}

} // namespace

std::vector<Field> Augmentation::fields_given(std::vector<Field> fields) const {
    if (mixes()) fields.back() = {fields.back().name, {classes}, DType::f32};
    return fields;
}

// Student's t of 2 * mixup degrees of freedom, by Bailey's polar method (1994), is a quotient of this symmetric beta
// distribution (Devroye 1996, "Random variate generation in one line of code"): two uniform numbers and no rejection.
float Augmentation::share(std::int64_t epoch, std::int64_t sample) const {
    const auto words = random_words(random_key(seed, "augmentation.mixup"), static_cast<std::uint64_t>(epoch),
                                    static_cast<std::uint64_t>(sample));
    const double cosine = std::cos(2 * std::numbers::pi * between(words[2], words[3]));
    const double squared = std::expm1(-std::log(between(words[0], words[1])) / mixup) * cosine * cosine;
    return static_cast<float>(0.5 + std::copysign(0.5 / std::sqrt(1 + 1 / squared), cosine));
}

void Augmentation::mix(float share, const ConstView& other, const View& one) {
    const auto* from = other.as<float>();
    auto* to = one.as<float>();
    for (std::int64_t i = 0; i < one.count(); ++i)
        to[i] = share * to[i] + (1 - share) * from[i];
}

void Augmentation::mix_labels(float share, std::int32_t one, std::int32_t other, const View& probabilities) const {
    auto* of_classes = probabilities.as<float>();
    std::fill_n(of_classes, classes, 0.0f);
    for (const auto& [label, part] : {std::pair(one, share), std::pair(other, 1 - share)}) {
        if (label < 0 || label >= classes)
            throw InternalError(fmt::format("mixup: label {} of {} classes", label, classes));
        of_classes[label] += part;
    }
}

// Ten times an area and the logarithm of a ratio are drawn; where no box of them fits, the largest in the middle whose
// ratio is allowed is taken.
Augmentation::Box Augmentation::resized_crop(std::int64_t epoch, std::int64_t sample, const Shape& image) const {
    const std::int64_t height = image[0], width = image[1];
    const double area = static_cast<double>(height) * static_cast<double>(width);
    const double least = std::log(least_ratio), most = std::log(most_ratio);
    for (int attempt = 0; attempt < 10; ++attempt) {
        const auto words = random_words(random_key(seed, fmt::format("augmentation.resized_crop.{}", attempt)),
                                        static_cast<std::uint64_t>(epoch), static_cast<std::uint64_t>(sample));
        const double share = least_area + (most_area - least_area) * (static_cast<double>(words[0]) * 0x1p-32);
        const double ratio = std::exp(least + (most - least) * (static_cast<double>(words[1]) * 0x1p-32));
        const std::int64_t wide = std::llround(std::sqrt(area * share * ratio)),
                           high = std::llround(std::sqrt(area * share / ratio));
        if (wide < 1 || high < 1 || wide > width || high > height) continue;
        return {below(words[2], height - high + 1), below(words[3], width - wide + 1), high, wide};
    }
    const double ratio = static_cast<double>(width) / static_cast<double>(height);
    Box box{0, 0, height, width};
    if (ratio < least_ratio)
        box.height = std::max<std::int64_t>(1, std::llround(static_cast<double>(width) / least_ratio));
    else if (ratio > most_ratio)
        box.width = std::max<std::int64_t>(1, std::llround(static_cast<double>(height) * most_ratio));
    box.top = (height - box.height) / 2;
    box.left = (width - box.width) / 2;
    return box;
}

void Augmentation::scale_box(const std::vector<float>& x, const Box& box, const View& y) {
    const std::int64_t height = y.shape[0], width = y.shape[1], channels = y.shape[2];
    // Of a place: the two neighbours and the share of the second.
    const auto between = [](std::int64_t i, std::int64_t size, std::int64_t of_box) {
        const double at = std::max(
            (static_cast<double>(i) + 0.5) * static_cast<double>(of_box) / static_cast<double>(size) - 0.5, 0.0);
        const auto first = std::min(static_cast<std::int64_t>(at), of_box - 1);
        return std::tuple(first, std::min(first + 1, of_box - 1), at - static_cast<double>(first));
    };
    auto* to = y.as<float>();
    for (std::int64_t h = 0; h < height; ++h) {
        const auto [above, under, down] = between(h, height, box.height);
        for (std::int64_t w = 0; w < width; ++w) {
            const auto [before, behind, right] = between(w, width, box.width);
            const auto at = [&](std::int64_t row, std::int64_t column) {
                return x.data() + ((box.top + row) * width + box.left + column) * channels;
            };
            const float *a = at(above, before), *b = at(above, behind), *c = at(under, before), *d = at(under, behind);
            for (std::int64_t i = 0; i < channels; ++i) {
                const double high = static_cast<double>(a[i]) * (1 - right) + static_cast<double>(b[i]) * right;
                const double low = static_cast<double>(c[i]) * (1 - right) + static_cast<double>(d[i]) * right;
                *to++ = static_cast<float>(high * (1 - down) + low * down);
            }
        }
    }
}

void Augmentation::apply(std::int64_t epoch, std::int64_t sample, std::span<const float> black, const View& image,
                         std::vector<float>& room) const {
    const auto words = [&](std::string_view name) {
        return random_words(random_key(seed, name), static_cast<std::uint64_t>(epoch),
                            static_cast<std::uint64_t>(sample));
    };
    auto* pixels = image.as<float>();
    const Shape& shape = image.shape;
    if (most_area > 0) {
        room.assign(pixels, pixels + image.count());
        scale_box(room, resized_crop(epoch, sample, shape), image);
    }
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
