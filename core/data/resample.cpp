// SPDX-License-Identifier: Apache-2.0
// Columns first, then rows.
#include "core/data/raster.hpp"

#include <algorithm>
#include <cmath>

namespace tessera {
namespace {

// The pixels [first, first + weights.size()) of a line that one of the result is made of.
struct Taps {
    std::int64_t first = 0;
    std::vector<float> weights; // sum to 1
};

// `from` pixels of the image, of which the result's `to` cover `to * step` in the middle.
std::vector<Taps> taps_of(std::int64_t from, std::int64_t to, double step) {
    const double begin = (static_cast<double>(from) - static_cast<double>(to) * step) / 2, reach = std::max(step, 1.0);
    std::vector<Taps> all;
    for (std::int64_t i = 0; i < to; ++i) {
        const double centre = begin + (static_cast<double>(i) + 0.5) * step;
        const auto low = static_cast<std::int64_t>(std::floor(centre - reach + 0.5)),
                   high = static_cast<std::int64_t>(std::floor(centre + reach + 0.5));
        Taps taps{std::clamp<std::int64_t>(low, 0, from - 1), {}};
        double sum = 0;
        for (std::int64_t at = taps.first; at < std::min(std::max(high, taps.first + 1), from); ++at) {
            const double weight = std::max(1 - std::abs(static_cast<double>(at) + 0.5 - centre) / reach, 0.0);
            taps.weights.push_back(static_cast<float>(weight));
            sum += weight;
        }
        for (float& weight : taps.weights)
            weight = static_cast<float>(static_cast<double>(weight) / sum);
        all.push_back(std::move(taps));
    }
    return all;
}

} // namespace

void resample(const Raster& image, std::int64_t height, std::int64_t width, float* result) {
    const double step = std::min(static_cast<double>(image.height) / static_cast<double>(height),
                                 static_cast<double>(image.width) / static_cast<double>(width));
    const std::vector<Taps> columns = taps_of(image.width, width, step), rows = taps_of(image.height, height, step);
    const std::int64_t first = rows.front().first,
                       end = rows.back().first + static_cast<std::int64_t>(rows.back().weights.size());
    const std::int64_t channels = image.channels, line = width * channels;
    std::vector<float> narrowed(static_cast<std::size_t>((end - first) * line)); // the rows that count
    for (std::int64_t y = first; y < end; ++y)
        for (std::int64_t x = 0; x < width; ++x) {
            const Taps& taps = columns[static_cast<std::size_t>(x)];
            const std::uint8_t* from = image.pixels.data() + (y * image.width + taps.first) * channels;
            float* to = narrowed.data() + (y - first) * line + x * channels;
            for (const float weight : taps.weights)
                for (std::int64_t c = 0; c < channels; ++c)
                    to[c] += weight * static_cast<float>(*from++);
        }
    std::fill_n(result, height * line, 0.0f);
    for (std::int64_t y = 0; y < height; ++y) {
        const Taps& taps = rows[static_cast<std::size_t>(y)];
        const float* from = narrowed.data() + (taps.first - first) * line;
        for (const float weight : taps.weights)
            for (std::int64_t i = 0; i < line; ++i)
                result[y * line + i] += weight * *from++;
    }
}

} // namespace tessera
