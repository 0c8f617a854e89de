// SPDX-License-Identifier: Apache-2.0
// Points of two half circles that reach into each other, and which of the two a point is of.
#include "parts.hpp"

#include "core/data/array_samples.hpp"

#include <cmath>
#include <numbers>
#include <random>

namespace {

using namespace tessera;

constexpr Key<std::int64_t> moons_count{"data.moons", 1000, "moons: points to make"};
constexpr Key<double> moons_noise{"data.moons_noise", 0.1, "moons: standard deviation of a point from its half circle"};

SampleArrays draw(std::int64_t count, double noise, std::uint64_t seed) {
    std::mt19937_64 generator(seed);
    std::uniform_real_distribution<double> angle(0, std::numbers::pi);
    std::normal_distribution<double> away(0, noise);
    std::vector<float> points;
    std::vector<std::int32_t> labels;
    for (std::int64_t i = 0; i < count; ++i) {
        const auto label = static_cast<std::int32_t>(i % 2);
        const double at = angle(generator), side = label == 0 ? 1 : -1;
        points.push_back(static_cast<float>(side * std::cos(at) + label + away(generator)));
        points.push_back(static_cast<float>(side * std::sin(at) + 0.5 * label + away(generator)));
        labels.push_back(label);
    }
    return {count, std::move(points), std::move(labels)};
}

OpenDataset read_moons(const Config& config) {
    const std::int64_t count = config.get(moons_count);
    const double noise = config.get(moons_noise);
    if (count < 2) config.refuse(moons_count.name, "must be at least 2");
    if (!(noise >= 0)) config.refuse(moons_noise.name, "must be at least 0");
    return [=](const DatasetOptions& options) -> std::unique_ptr<Dataset> {
        const SampleForm form{{{"point", {2}, DType::f32}, {"label", {}, DType::i32}}, 2};
        return std::make_unique<ArraySamples>(form, "moons", draw(count, noise, options.seed), SampleArrays{},
                                              options.validation_fraction);
    };
}

} // namespace

ReaderType moons_reader() { return {"moons", read_moons}; }

std::vector<KeyInfo> moons_keys() { return {key_info(moons_count), key_info(moons_noise)}; }
