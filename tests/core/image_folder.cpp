// SPDX-License-Identifier: Apache-2.0
// Folders of images: pixels as the libraries' own writers were given them, scaling beside a plain sum in double, and
// what is no image.
#include "core/data/augmentation.hpp"
#include "core/data/dataset.hpp"
#include "core/data/raster.hpp"
#include "tests/core/data_files.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <png.h>
#include <random>
#include <turbojpeg.h>

using namespace tessera;
using testing::HasSubstr;

namespace {

using Pixels = std::vector<std::uint8_t>;

// Smooth, so that a JPEG of it is near.
Pixels slopes(std::int64_t height, std::int64_t width, std::int64_t channels) {
    Pixels pixels;
    for (std::int64_t y = 0; y < height; ++y)
        for (std::int64_t x = 0; x < width; ++x)
            for (std::int64_t c = 0; c < channels; ++c)
                pixels.push_back(static_cast<std::uint8_t>((40 + 60 * c + y * 50 / height + x * 80 / width) % 256));
    return pixels;
}

std::string png(std::int64_t height, std::int64_t width, const Pixels& pixels, png_uint_32 format = PNG_FORMAT_RGB) {
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    image.height = static_cast<png_uint_32>(height);
    image.width = static_cast<png_uint_32>(width);
    image.format = format;
    png_alloc_size_t size = 1 << 20;
    std::string bytes(size, 0);
    EXPECT_NE(png_image_write_to_memory(&image, bytes.data(), &size, 0, pixels.data(), 0, nullptr), 0) << image.message;
    bytes.resize(size);
    return bytes;
}

std::string jpeg(std::int64_t height, std::int64_t width, const Pixels& pixels, int format = TJPF_RGB) {
    const tjhandle handle = tjInitCompress();
    unsigned char* made = nullptr;
    unsigned long size = 0;
    const int sampling = format == TJPF_GRAY ? TJSAMP_GRAY : TJSAMP_444;
    EXPECT_EQ(tjCompress2(handle, pixels.data(), static_cast<int>(width), 0, static_cast<int>(height), format, &made,
                          &size, sampling, 98, 0),
              0);
    std::string bytes(reinterpret_cast<const char*>(made), size);
    tjFree(made);
    tjDestroy(handle);
    return bytes;
}

Raster decoded(const std::string& path, std::int64_t channels, std::int64_t height = 1 << 20, std::int64_t width = 1) {
    return decode_image(MappedFile(path), channels, height, width);
}

int furthest(const Pixels& a, const Pixels& b) {
    EXPECT_EQ(a.size(), b.size());
    int most = 0;
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
        most = std::max(most, std::abs(a[i] - b[i]));
    return most;
}

// The same as resample(), each pixel by itself.
double plain(const Raster& image, std::int64_t height, std::int64_t width, std::int64_t y, std::int64_t x,
             std::int64_t c) {
    const double step = std::min(static_cast<double>(image.height) / static_cast<double>(height),
                                 static_cast<double>(image.width) / static_cast<double>(width));
    const double reach = std::max(step, 1.0);
    const auto centre = [&](std::int64_t from, std::int64_t to, std::int64_t i) {
        return (static_cast<double>(from) - static_cast<double>(to) * step) / 2 + (static_cast<double>(i) + 0.5) * step;
    };
    const double of_y = centre(image.height, height, y), of_x = centre(image.width, width, x);
    double sum = 0, weights = 0;
    for (std::int64_t v = 0; v < image.height; ++v)
        for (std::int64_t u = 0; u < image.width; ++u) {
            const double weight = std::max(1 - std::abs(static_cast<double>(v) + 0.5 - of_y) / reach, 0.0) *
                                  std::max(1 - std::abs(static_cast<double>(u) + 0.5 - of_x) / reach, 0.0);
            weights += weight;
            sum += weight * image.pixels[static_cast<std::size_t>((v * image.width + u) * image.channels + c)];
        }
    return sum / weights;
}

DatasetOptions options_of(const TestFolder& folder) {
    DatasetOptions options;
    options.reader = "image_folder";
    options.files = {folder.path("train")};
    options.image_shape = {4, 4, 3};
    options.validation_fraction = 0;
    return options;
}

std::string write_image(const TestFolder& folder, const std::string& name, const std::string& bytes) {
    std::filesystem::create_directories(std::filesystem::path(folder.path(name)).parent_path());
    return folder.write(name, bytes);
}

std::vector<float> sample_of(const Dataset& dataset, Split split, std::int64_t sample, std::int32_t& label) {
    const Shape& shape = dataset.form().fields[0].shape;
    std::vector<float> pixels(static_cast<std::size_t>(shape.count()));
    dataset.read(split, sample, std::array{View(pixels.data(), shape, DType::f32), View(&label, {}, DType::i32)});
    return pixels;
}

} // namespace

TEST(Raster, PngComesOutAsItWentIn) {
    const TestFolder folder;
    const Pixels colours = slopes(5, 7, 3);
    const Raster image = decoded(folder.write("a.png", png(5, 7, colours)), 3);
    EXPECT_EQ(image.height, 5);
    EXPECT_EQ(image.width, 7);
    EXPECT_EQ(image.pixels, colours);
    const Pixels one_grey = decoded(folder.path("a.png"), 1).pixels;
    EXPECT_EQ(one_grey[0], (299 * 40 + 587 * 100 + 114 * 160 + 500) / 1000);
    const Pixels grey = slopes(5, 7, 1);
    folder.write("grey.png", png(5, 7, grey, PNG_FORMAT_GRAY));
    EXPECT_EQ(decoded(folder.path("grey.png"), 1).pixels, grey);
    EXPECT_EQ(decoded(folder.path("grey.png"), 3).pixels[3 * 9 + 1], grey[9]);
}

TEST(Raster, JpegComesOutNearly) {
    const TestFolder folder;
    const Pixels colours = slopes(24, 33, 3), grey = slopes(24, 33, 1);
    EXPECT_LE(furthest(decoded(folder.write("a.jpg", jpeg(24, 33, colours)), 3).pixels, colours), 8);
    EXPECT_LE(furthest(decoded(folder.write("grey.jpg", jpeg(24, 33, grey, TJPF_GRAY)), 1).pixels, grey), 8);
    const Raster half = decoded(folder.path("a.jpg"), 3, 10, 12), quarter = decoded(folder.path("a.jpg"), 3, 6, 9);
    EXPECT_EQ(half.height, 12);
    EXPECT_EQ(half.width, 17);
    EXPECT_EQ(quarter.height, 6);
    EXPECT_EQ(quarter.width, 9);
    Pixels inks(16 * 16 * 4, 255); // Adobe's: 255 is no ink
    for (std::size_t i = 0; i < inks.size(); i += 4)
        inks[i] = 100;
    const Pixels cyan = decoded(folder.write("inks.jpg", jpeg(16, 16, inks, TJPF_CMYK)), 3).pixels;
    EXPECT_NEAR(cyan[0], 100, 4);
    EXPECT_NEAR(cyan[1], 255, 4);
    EXPECT_NEAR(cyan[2], 255, 4);
}

TEST(Raster, ResamplingIsATriangleOverTheMiddle) {
    for (const auto& [height, width] :
         {std::pair<std::int64_t, std::int64_t>{4, 4}, {8, 20}, {13, 5}, {3, 2}, {64, 48}}) {
        const Raster image{height, width, 3, slopes(height, width, 3)};
        std::vector<float> found(static_cast<std::size_t>(4 * 4 * 3));
        resample(image, 4, 4, found.data());
        for (std::int64_t i = 0; i < 48; ++i)
            EXPECT_NEAR(found[static_cast<std::size_t>(i)], plain(image, 4, 4, i / 12, i / 3 % 4, i % 3), 1e-3)
                << height << " x " << width;
    }
    const Raster same{4, 4, 3, slopes(4, 4, 3)};
    std::vector<float> found(48);
    resample(same, 4, 4, found.data());
    EXPECT_TRUE(std::ranges::equal(found, same.pixels)) << "of the same size: the same";
}

TEST(ImageFolder, HasAClassForEachFolder) {
    const TestFolder folder;
    const Pixels dark(4 * 4 * 3, 10), bright(4 * 4 * 3, 250);
    for (int i = 0; i < 4; ++i) {
        write_image(folder, fmt::format("train/cat/{}.png", i), png(4, 4, dark));
        write_image(folder, fmt::format("train/dog/deep/{}.JPG", i), jpeg(4, 4, bright));
    }
    write_image(folder, "train/dog/.hidden", "of no interest");
    DatasetOptions options = options_of(folder);
    options.validation_fraction = 0.25;
    const auto dataset = open_dataset(options);
    EXPECT_EQ(dataset->form().classes, 2);
    EXPECT_EQ(dataset->samples(Split::train), 6);
    ASSERT_EQ(dataset->samples(Split::validation), 2);
    std::int32_t label = -1;
    for (const std::int32_t expected : {0, 1}) { // of each class one
        const std::vector<float> pixels = sample_of(*dataset, Split::validation, expected, label);
        EXPECT_EQ(label, expected);
        EXPECT_NEAR(pixels[0], expected == 0 ? -1 : 1, 0.03) << "half of the pixels are dark, half bright";
    }
    EXPECT_NEAR(dataset->black(0), -130.0 / 120, 0.02);
    EXPECT_NE(dataset->fingerprint(), open_dataset(options_of(folder))->fingerprint());
    EXPECT_EQ(dataset->fingerprint(), open_dataset(options)->fingerprint());
    write_image(folder, "other/dog/x.png", png(4, 4, dark));
    options.validation_files = {folder.path("other")};
    EXPECT_EQ(open_dataset(options)->samples(Split::validation), 1);
    write_image(folder, "other/fox/x.png", png(4, 4, dark));
    expect_refusal([&] { open_dataset(options); },
                   folder.path("other/fox") + ": none of the 2 classes of the training data");
}

TEST(ImageFolder, NamesWhatIsNoImage) {
    const TestFolder folder;
    DatasetOptions options = options_of(folder);
    std::filesystem::create_directories(folder.path("train"));
    expect_refusal([&] { open_dataset(options); },
                   folder.path("train") + ": holds no folder, of which there is one for each class");
    std::filesystem::create_directories(folder.path("train/empty"));
    expect_refusal([&] { open_dataset(options); }, folder.path("train/empty") + ": holds no image");
    const std::string good = png(4, 4, slopes(4, 4, 3));
    Pixels noise = slopes(64, 64, 3);
    std::mt19937 generator(1);
    for (std::uint8_t& value : noise)
        value = static_cast<std::uint8_t>(generator());
    const std::string noisy = png(64, 64, noise), noisy_photo = jpeg(64, 64, noise);
    write_image(folder, "train/a/good.png", good);
    write_image(folder, "train/a/text.png", "no image at all");
    write_image(folder, "train/a/short.png", noisy.substr(0, noisy.size() / 2));
    write_image(folder, "train/a/short.jpg", noisy_photo.substr(0, noisy_photo.size() / 2));
    write_image(folder, "train/a/notes.txt", "notes");
    options.skip_errors = true;
    const auto dataset = open_dataset(options);
    EXPECT_EQ(dataset->samples(Split::train), 1);
    const std::vector<SkippedRecords> skipped = dataset->skipped();
    ASSERT_EQ(skipped.size(), 2u);
    EXPECT_EQ(skipped[0].kind, "file");
    EXPECT_EQ(skipped[0].count, 4);
    EXPECT_EQ(skipped[0].first, folder.path("train/a/notes.txt") + ": its name ends in none of .jpg, .jpeg and .png");
    EXPECT_EQ(skipped[1].first, folder.path("train/empty") + ": holds no image");
    const auto refused = [&](const char* name, const char* why) {
        EXPECT_THAT([&] { decoded(folder.path(name), 3); },
                    testing::ThrowsMessage<ConfigError>(testing::AllOf(HasSubstr(folder.path(name)), HasSubstr(why))));
    };
    refused("train/a/text.png", "neither a JPEG nor a PNG image");
    refused("train/a/short.png", "damaged or truncated PNG image");
    refused("train/a/short.jpg", "truncated JPEG image");
}
