// SPDX-License-Identifier: Apache-2.0
// Mixup: shares of the beta distribution, and what the loader mixes against the samples themselves, on any rank.
#include "core/data/augmentation.hpp"
#include "core/data/loader.hpp"
#include "core/run/experiment.hpp"
#include "tests/core/data_files.hpp"
#include "tests/core/tiny_images.hpp"

#include <algorithm>
#include <gtest/gtest.h>
#include <map>

using namespace tessera;

namespace {

// The largest distance between how many of `count` shares are below x and `distribution`(x) (Kolmogorov and Smirnov).
double distance(double alpha, std::int64_t count, const std::function<double(double)>& distribution) {
    const Augmentation by{.seed = 5, .mixup = alpha, .classes = 2};
    std::vector<double> shares;
    for (std::int64_t i = 0; i < count; ++i)
        shares.push_back(static_cast<double>(by.share(i % 7, i)));
    std::ranges::sort(shares);
    double most = 0;
    for (std::size_t i = 0; i < shares.size(); ++i) {
        const double wanted = distribution(shares[i]);
        most = std::max({most, std::abs(wanted - static_cast<double>(i) / static_cast<double>(count)),
                         std::abs(wanted - static_cast<double>(i + 1) / static_cast<double>(count))});
    }
    return most;
}

constexpr std::int64_t rows = 4, classes = 5;
const Shape image{8, 7, 3};

struct Mixed {
    std::vector<float> pixels, probabilities;
    bool operator==(const Mixed&) const = default;
};

// Each row of 6 steps of 4 micro-batches, by its number, as these ranks' loaders give them.
std::map<std::int64_t, Mixed> read(const Dataset& data, const SampleOrder& order, const Augmentation& by,
                                   std::int64_t ranks, std::int64_t first_step = 0) {
    std::map<std::int64_t, Mixed> found;
    Stream stream = CpuStream(1);
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
        const LoaderOptions options{.micro_batch_size = rows,
                                    .first_micro_batch = rank * (4 / ranks),
                                    .micro_batches = 4 / ranks,
                                    .micro_batches_per_step = 4,
                                    .first_step = first_step,
                                    .end_step = 6,
                                    .threads = static_cast<int>(ranks),
                                    .augmentation = by};
        Loader loader(data, order, options);
        EXPECT_EQ(loader.allocated_bytes(), Loader::buffer_bytes(data.form().fields, options));
        std::vector<float> pixels(static_cast<std::size_t>(rows * image.count())), labels(rows * classes);
        for (std::int64_t step = first_step; step < 6; ++step)
            for (std::int64_t m = 0; m < options.micro_batches; ++m) {
                loader.next(stream, std::array{View(pixels.data(), {rows, 8, 7, 3}, DType::f32),
                                               View(labels.data(), {rows, classes}, DType::f32)});
                for (std::int64_t row = 0; row < rows; ++row) {
                    const auto from = pixels.begin() + row * image.count();
                    const auto of = labels.begin() + row * classes;
                    found[(step * 4 + options.first_micro_batch + m) * rows + row] = {{from, from + image.count()},
                                                                                      {of, of + classes}};
                }
            }
    }
    return found;
}

} // namespace

TEST(MixupShare, IsOfTheBetaDistribution) {
    constexpr std::int64_t count =
        20000; // by chance a distance is above 1.95 / sqrt(count) = 0.0138 once in a thousand
    EXPECT_LT(distance(1, count, [](double x) { return x; }), 0.0138);
    EXPECT_LT(distance(0.5, count, [](double x) { return 2 / std::numbers::pi * std::asin(std::sqrt(x)); }), 0.0138);
    EXPECT_LT(distance(2, count, [](double x) { return x * x * (3 - 2 * x); }), 0.0138);
    EXPECT_GT(distance(2, count, [](double x) { return x; }), 0.05);
    for (const double alpha : {0.02, 0.2, 8.0, 1000.0}) {
        const Augmentation by{.seed = 6, .mixup = alpha, .classes = 2};
        double mean = 0, squares = 0;
        for (std::int64_t i = 0; i < count; ++i) {
            const double share = static_cast<double>(by.share(3, i));
            EXPECT_TRUE(share >= 0 && share <= 1) << share;
            mean += share / static_cast<double>(count);
            squares += (share - 0.5) * (share - 0.5) / static_cast<double>(count);
        }
        const double variance = 1 / (4 * (2 * alpha + 1));
        EXPECT_NEAR(mean, 0.5, 4 * std::sqrt(variance / static_cast<double>(count))) << alpha;
        EXPECT_NEAR(squares / variance, 1, 0.05) << alpha;
    }
}

TEST(MixupShare, IsAFunctionOfSeedEpochAndSample) {
    const Augmentation by{.seed = 5, .mixup = 1, .classes = 2}, other{.seed = 6, .mixup = 1, .classes = 2};
    EXPECT_EQ(by.share(1, 2), by.share(1, 2));
    EXPECT_NE(by.share(1, 2), by.share(2, 1));
    EXPECT_NE(by.share(1, 2), other.share(1, 2));
}

// Against a plain loop over the samples of the order, each changed for itself before.
TEST(Mixup, ASampleIsMixedWithTheNextOfTheOrder) {
    const auto data = tiny_images();
    const SampleOrder order({"shuffle", 3, data->samples(Split::train), 1});
    const Augmentation by{.seed = 9, .crop_padding = 1, .flip = true, .cutout = 2, .mixup = 0.7, .classes = classes};
    const std::map<std::int64_t, Mixed> found = read(*data, order, by, 1);
    ASSERT_EQ(found.size(), 96u); // over two epochs of 40
    const auto sample_at = [&](std::int64_t index, std::int32_t& label) {
        std::vector<float> pixels(static_cast<std::size_t>(image.count())), room;
        const View view(pixels.data(), image, DType::f32);
        const SampleOrder::Place place = order.place(index);
        data->read(Split::train, place.sample, std::array{view, View(&label, {}, DType::i32)});
        by.apply(place.epoch, place.sample, blacks(*data, place.sample), view, room);
        return pixels;
    };
    for (const auto& [index, mixed] : found) {
        std::int32_t label = -1, other_label = -1;
        const std::vector<float> own = sample_at(index, label), other = sample_at(index + 1, other_label);
        const SampleOrder::Place place = order.place(index);
        const double share = static_cast<double>(by.share(place.epoch, place.sample));
        for (std::size_t i = 0; i < own.size(); ++i)
            EXPECT_NEAR(mixed.pixels[i],
                        share * static_cast<double>(own[i]) + (1 - share) * static_cast<double>(other[i]), 1e-5);
        for (std::int32_t c = 0; c < classes; ++c)
            EXPECT_NEAR(mixed.probabilities[static_cast<std::size_t>(c)],
                        (c == label ? share : 0) + (c == other_label ? 1 - share : 0), 1e-6);
    }
    EXPECT_EQ(found, read(*data, order, by, 2));
    EXPECT_EQ(found, read(*data, order, by, 4));
    std::map<std::int64_t, Mixed> rest = found;
    rest.erase(rest.begin(), rest.find(5 * 16));
    EXPECT_EQ(rest, read(*data, order, by, 2, 5));
}

TEST(Mixup, TrainsOnProbabilitiesAndEvaluatesOnLabels) {
    const Config config = image_config(tiny_mlp, {"data.mixup=0.4"});
    const auto data = tiny_images();
    const Experiment experiment = plan_training(config, {0, 1, true}, data.get(), CpuStream(1));
    const auto type_of_label = [](const Program& program) {
        return program.model.graph.value(program.model.inputs.back()).type;
    };
    EXPECT_EQ(type_of_label(experiment.train).shape, (Shape{2, 5}));
    EXPECT_EQ(type_of_label(experiment.train).dtype, DType::f32);
    EXPECT_EQ(type_of_label(experiment.evaluate).dtype, DType::i32);
    for (const char* words : {"data.mixup=-1", "data.mixup=nan", "data.mixup=1e9"})
        EXPECT_THROW(plan_training(image_config(tiny_mlp, {words}), {0, 1, true}, data.get(), CpuStream(1)),
                     ConfigError)
            << words;
    const std::string weighed = std::string(tiny_mlp) + "class_weights = [1, 2, 1, 1, 1]\n";
    expect_refusal(
        [&] {
            plan_training(image_config(weighed, {"data.mixup=0.4"}), {0, 1, true}, data.get(), CpuStream(1));
        },
        "layers.toml:48:1: ignore_index and class_weights are of labels, which data.mixup makes probabilities of");
}
