// SPDX-License-Identifier: Apache-2.0
// Images changed by chance: each pixel is one of the image's, or black, in its place; other epochs and samples differ.
#include "core/data/augmentation.hpp"

#include "core/data/loader.hpp"
#include "tests/core/tiny_images.hpp"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <map>
#include <set>

using namespace tessera;

namespace {

constexpr std::int64_t height = 5, width = 4, channels = 2;
constexpr float black = -3;

using Pixels = std::vector<float>;

Pixels numbered() {
    Pixels pixels;
    for (int i = 0; i < height * width * channels; ++i)
        pixels.push_back(static_cast<float>(i + 1));
    return pixels;
}

Pixels changed(const Augmentation& by, std::int64_t epoch, std::int64_t sample) {
    Pixels pixels = numbered(), room;
    by.apply(epoch, sample, std::array{black, black}, View(pixels.data(), {height, width, channels}, DType::f32), room);
    return pixels;
}

// What the image is, moved by so much.
Pixels moved(std::int64_t down, std::int64_t right, bool flip) {
    const Pixels from = numbered();
    Pixels to;
    for (std::int64_t h = 0; h < height; ++h)
        for (std::int64_t w = 0; w < width; ++w)
            for (std::int64_t c = 0; c < channels; ++c) {
                const std::int64_t row = h + down, column = (flip ? width - 1 - w : w) + right;
                const bool inside = row >= 0 && row < height && column >= 0 && column < width;
                to.push_back(inside ? from[static_cast<std::size_t>((row * width + column) * channels + c)] : black);
            }
    return to;
}

} // namespace

TEST(Augmentation, EveryCropAndFlipComesAboutAsOften) {
    std::map<Pixels, int> found;
    const Augmentation by{.seed = 7, .crop_padding = 1, .flip = true};
    for (std::int64_t sample = 0; sample < 1800; ++sample)
        ++found[changed(by, sample % 3, sample)];
    EXPECT_EQ(found.size(), 18);
    for (const std::int64_t down : {-1, 0, 1})
        for (const std::int64_t right : {-1, 0, 1})
            for (const bool flip : {false, true}) {
                const int times = found[moved(down, right, flip)];
                EXPECT_GT(times, 60) << down << " " << right << " " << flip;
                EXPECT_LT(times, 140) << down << " " << right << " " << flip;
            }
}

TEST(Augmentation, ACutoutIsASquareOfTheMean) {
    std::set<Pixels> found;
    const Augmentation by{.seed = 7, .cutout = 3};
    for (std::int64_t sample = 0; sample < 400; ++sample)
        found.insert(changed(by, 0, sample));
    EXPECT_EQ(found.size(), height * width); // its middle is any pixel
    const Pixels whole = numbered();
    for (const Pixels& one : found) {
        std::int64_t cut = 0;
        for (std::size_t i = 0; i < one.size(); ++i) {
            EXPECT_TRUE(one[i] == whole[i] || one[i] == 0);
            cut += one[i] == 0 ? 1 : 0;
        }
        EXPECT_GE(cut, 2 * 2 * channels);
        EXPECT_LE(cut, 3 * 3 * channels);
    }
}

TEST(Augmentation, IsAFunctionOfSeedEpochAndSample) {
    const Augmentation by{.seed = 7, .crop_padding = 3, .flip = true, .cutout = 2};
    Augmentation other = by;
    other.seed = 8;
    std::set<Pixels> epochs, samples;
    for (std::int64_t i = 0; i < 20; ++i) {
        EXPECT_EQ(changed(by, 1, i), changed(by, 1, i));
        epochs.insert(changed(by, i, 1));
        samples.insert(changed(by, 1, i));
    }
    EXPECT_GT(epochs.size(), 15);
    EXPECT_GT(samples.size(), 15);
    EXPECT_NE(changed(by, 1, 1), changed(other, 1, 1));
}

// In the order of epochs, whoever reads: black is what the data made of 0.
TEST(Augmentation, TheLoaderChangesWhatItReads) {
    const auto data = tiny_images();
    LoaderOptions options{.micro_batch_size = 5, .micro_batches_per_step = 1, .end_step = 20};
    options.augmentation = {.seed = 3, .crop_padding = 2, .flip = true, .cutout = 2};
    const SampleOrder order({"shuffle", 3, data->samples(Split::train), 1});
    Loader loader(*data, order, options);
    Stream stream = CpuStream(1);
    const Shape image{8, 7, 3};
    Pixels batch(static_cast<std::size_t>(5 * image.count())), one(static_cast<std::size_t>(image.count())), room;
    std::vector<std::int32_t> labels(5);
    for (std::int64_t step = 0; step < 20; ++step) {
        loader.next(stream,
                    std::array{View(batch.data(), {5, 8, 7, 3}, DType::f32), View(labels.data(), {5}, DType::i32)});
        for (std::int64_t row = 0; row < 5; ++row) {
            const std::int64_t index = step * 5 + row, sample = order.sample(index);
            std::int32_t label = 0;
            const View pixels(one.data(), image, DType::f32);
            data->read(Split::train, sample, std::array{pixels, View(&label, {}, DType::i32)});
            options.augmentation.apply(index / order.per_epoch(), sample, blacks(*data, sample), pixels, room);
            EXPECT_TRUE(std::equal(one.begin(), one.end(), batch.begin() + row * image.count()));
        }
    }
    EXPECT_LT(data->black(0), 0);
}

// Against the definition in double: a weight of each pixel of the box for each place, 1 less the distance.
TEST(Augmentation, ABoxIsScaledBetweenItsPixels) {
    const Pixels from = numbered();
    for (const Augmentation::Box& box :
         {Augmentation::Box{0, 0, height, width}, {1, 1, 3, 2}, {2, 0, 1, 4}, {4, 3, 1, 1}, {0, 1, 5, 3}}) {
        Pixels to(from.size());
        Augmentation::scale_box(from, box, View(to.data(), {height, width, channels}, DType::f32));
        const auto place = [](std::int64_t i, std::int64_t size, std::int64_t of_box) {
            const double at =
                (static_cast<double>(i) + 0.5) * static_cast<double>(of_box) / static_cast<double>(size) - 0.5;
            return std::clamp(at, 0.0, static_cast<double>(of_box - 1)); // beyond the edges lies the edge
        };
        for (std::int64_t h = 0; h < height; ++h)
            for (std::int64_t w = 0; w < width; ++w)
                for (std::int64_t c = 0; c < channels; ++c) {
                    double wanted = 0;
                    for (std::int64_t row = 0; row < box.height; ++row)
                        for (std::int64_t column = 0; column < box.width; ++column) {
                            const double down = 1 - std::abs(place(h, height, box.height) - static_cast<double>(row));
                            const double right = 1 - std::abs(place(w, width, box.width) - static_cast<double>(column));
                            const auto at = ((box.top + row) * width + box.left + column) * channels + c;
                            wanted += std::max(down, 0.0) * std::max(right, 0.0) *
                                      static_cast<double>(from[static_cast<std::size_t>(at)]);
                        }
                    EXPECT_NEAR(to[static_cast<std::size_t>((h * width + w) * channels + c)], wanted, 1e-5);
                }
    }
}

// Boxes are of the shares and ratios asked for, lie anywhere, differ by sample and epoch, and are the same each time.
TEST(Augmentation, BoxesAreOfTheAreasAndRatiosAskedFor) {
    const Augmentation by{.seed = 3, .least_area = 0.1, .most_area = 0.6, .least_ratio = 0.5, .most_ratio = 2};
    const Shape image{120, 90, 3};
    std::set<std::int64_t> tops, heights;
    double areas = 0, wide = 0;
    constexpr int boxes = 2000;
    for (std::int64_t i = 0; i < boxes; ++i) {
        const Augmentation::Box box = by.resized_crop(i % 2, i / 2, image);
        ASSERT_TRUE(box.top >= 0 && box.left >= 0 && box.top + box.height <= 120 && box.left + box.width <= 90);
        const double share = static_cast<double>(box.height * box.width) / (120 * 90);
        const double ratio = static_cast<double>(box.width) / static_cast<double>(box.height);
        ASSERT_TRUE(share > 0.09 && share < 0.62 && ratio > 0.47 && ratio < 2.1) << share << " " << ratio;
        areas += share / boxes;
        wide += ratio > 1 ? 1.0 / boxes : 0;
        tops.insert(box.top), heights.insert(box.height);
        const Augmentation::Box again = by.resized_crop(i % 2, i / 2, image);
        ASSERT_EQ(box.top * 1000 + box.width, again.top * 1000 + again.width);
    }
    EXPECT_NEAR(areas, 0.34, 0.03); // the mean, less what does not fit
    EXPECT_NEAR(wide, 0.47, 0.08);
    EXPECT_GT(tops.size(), 60u);
    EXPECT_GT(heights.size(), 60u);
    const Augmentation tall{.seed = 3, .least_area = 1, .most_area = 1, .least_ratio = 1, .most_ratio = 1};
    const Augmentation::Box middle = tall.resized_crop(0, 0, image); // none fits: the largest square
    EXPECT_EQ(middle.height, 90);
    EXPECT_EQ(middle.top, 15);
    EXPECT_NE(changed(by, 0, 1), changed(by, 1, 1));
    EXPECT_NE(changed(by, 0, 1), changed(by, 0, 2));
}
