// SPDX-License-Identifier: Apache-2.0
// IDX, the format of MNIST: two zeros, the type of the elements, the number of dims, each dim in 4 bytes, big-endian,
// then the elements. Images are (N, H, W) or (N, H, W, C) bytes, labels (N) bytes.
#include "core/data/array_samples.hpp"
#include "core/data/data_error.hpp"
#include "core/data/readers.hpp"
#include "core/data/unpacked_file.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {
namespace {

constexpr std::int64_t most_bytes = std::int64_t{1} << 40;
constexpr std::size_t first_piece = 1 << 16; // what follows is believed to be there when it is: twice as much each time

struct IdxFile {
    Shape shape; // (N, …)
    std::vector<std::uint8_t> bytes;
};

Shape read_header(UnpackedFile& file, std::string_view what, int fewest, int most) {
    std::array<std::byte, 4> word{};
    const auto number = [&] {
        if (file.read(word) != word.size())
            throw DataError(fmt::format("{}: truncated within its header", file.path()));
        std::uint32_t value = 0;
        for (const std::byte byte : word)
            value = value << 8 | static_cast<std::uint32_t>(byte);
        return value;
    };
    const std::uint32_t magic = number();
    const auto dims = static_cast<int>(magic & 0xff);
    if (magic >> 16 != 0 || dims == 0)
        throw DataError(fmt::format("{}: not an IDX file: it begins with {:#010x}", file.path(), magic));
    if ((magic >> 8 & 0xff) != 0x08)
        throw DataError(
            fmt::format("{}: elements of type {:#04x}, expected 0x08, bytes", file.path(), magic >> 8 & 0xff));
    if (dims < fewest || dims > most)
        throw DataError(fmt::format("{}: {} dims, expected {} for {}", file.path(), dims,
                                    fewest == most ? fmt::format("{}", most) : fmt::format("{} or {}", fewest, most),
                                    what));
    Shape shape;
    std::int64_t bytes = 1;
    for (int dim = 0; dim < dims; ++dim) {
        const std::int64_t size = number();
        if (size == 0) throw DataError(fmt::format("{}: dim {} has the size 0", file.path(), dim));
        bytes = bytes > most_bytes / size ? most_bytes + 1 : bytes * size;
        shape.append(size);
    }
    if (bytes > most_bytes)
        throw DataError(fmt::format("{}: its header says {} bytes, too many", file.path(), shape.text()));
    return shape;
}

IdxFile read_idx(const std::string& path, std::string_view what, int fewest, int most) {
    UnpackedFile file(path);
    IdxFile found{read_header(file, what, fewest, most), {}};
    const auto expected = static_cast<std::size_t>(found.shape.count());
    while (found.bytes.size() < expected) {
        const std::size_t before = found.bytes.size(),
                          wanted = std::min(std::max(first_piece, before), expected - before);
        found.bytes.resize(before + wanted);
        const std::size_t count = file.read(std::as_writable_bytes(std::span(found.bytes).subspan(before)));
        if (count < wanted)
            throw DataError(fmt::format("{}: truncated: its header says {}, {} bytes, but {} follow it", path,
                                        found.shape.text(), expected, before + count));
    }
    std::byte more{};
    if (file.read({&more, 1}) != 0)
        throw DataError(
            fmt::format("{}: its header says {}, {} bytes, but more follow it", path, found.shape.text(), expected));
    return found;
}

struct Images {
    Shape shape; // (H, W, C) of each
    SampleArrays arrays;
    std::string first; // file
};

Shape image_shape(const Shape& of_file) {
    Shape shape = of_file.slice(1, of_file.rank());
    if (shape.rank() == 2) shape.append(1);
    return shape;
}

// `classes`: labels are below; 0: any. Adds a pair of files, or throws and adds nothing; images whose label is beyond
// are `errors`' to judge.
void add_files(const std::string& image_file, const std::string& label_file, std::int64_t classes, Images& images,
               RecordErrors& errors) {
    const IdxFile pixels = read_idx(image_file, "images", 3, 4), labels = read_idx(label_file, "labels", 1, 1);
    const Shape shape = image_shape(pixels.shape);
    if (images.shape.rank() > 0 && shape != images.shape)
        throw DataError(fmt::format("{}: images are {}, {} {}", image_file, shape.text(),
                                    images.first.empty() ? "data.image_shape says" : "those of " + images.first,
                                    images.shape.text()));
    if (labels.shape[0] != pixels.shape[0])
        throw DataError(fmt::format("{}: {} labels, but {} has {} images", label_file, labels.shape[0], image_file,
                                    pixels.shape[0]));
    const std::int64_t before = images.arrays.count;
    auto& inputs = std::get<0>(images.arrays.inputs);
    auto& targets = std::get<0>(images.arrays.targets);
    const std::int64_t elements = shape.count();
    auto next = pixels.bytes.begin();
    for (std::size_t i = 0; i < labels.bytes.size(); ++i, next += elements)
        errors.attempt("image", [&] {
            if (classes > 0 && labels.bytes[i] >= classes)
                throw DataError(fmt::format("{}: label number {} is {}, beyond the {} classes", label_file, i,
                                            labels.bytes[i], classes));
            inputs.insert(inputs.end(), next, next + elements);
            targets.push_back(labels.bytes[i]);
            ++images.arrays.count;
        });
    if (images.arrays.count == before) return;
    if (images.first.empty()) images.first = image_file;
    images.shape = shape;
}

Images read_pairs(const std::vector<std::string>& image_patterns, const std::vector<std::string>& label_patterns,
                  std::int64_t classes, const Images& like, RecordErrors& errors) {
    Images images;
    images.shape = like.shape; // no dims: that of the first
    images.first = like.first;
    const std::vector<std::string> image_files = matching_paths(image_patterns),
                                   label_files = matching_paths(label_patterns);
    if (image_files.size() != label_files.size())
        throw DataError(fmt::format("{} files of images, but {} of labels", image_files.size(), label_files.size()));
    for (std::size_t i = 0; i < image_files.size(); ++i)
        errors.attempt("pair of files", [&] { add_files(image_files[i], label_files[i], classes, images, errors); });
    return images;
}

} // namespace

std::unique_ptr<Dataset> read_images(const DatasetOptions& options) {
    if (options.files.empty()) throw ConfigError("the reader 'idx' needs files, none are given");
    RecordErrors errors(options.skip_errors);
    Shape expected;
    for (const std::int64_t size : options.image_shape)
        expected.append(size);
    Images wanted;
    if (options.skip_errors) wanted.shape = expected;
    Images train = read_pairs(options.files, options.label_files, options.classes, wanted, errors);
    if (train.arrays.count == 0) throw DataError(fmt::format("{}: no image is left to train on", options.files[0]));
    if (expected.rank() > 0 && train.shape != expected)
        throw ConfigError(fmt::format("{}: images are {}, data.image_shape says {}", train.first, train.shape.text(),
                                      expected.text()));
    const std::int64_t classes =
        options.classes > 0 ? options.classes : *std::ranges::max_element(std::get<0>(train.arrays.targets)) + 1;
    Images validation = read_pairs(options.validation_files, options.validation_label_files, classes, train, errors);
    if (!options.validation_files.empty() && validation.arrays.count == 0)
        throw DataError(fmt::format("{}: no image is left to validate on", options.validation_files[0]));
    SampleForm form{{{"image", train.shape, DType::f32}, {"label", {}, DType::i32}}, classes};
    return std::make_unique<ArraySamples>(std::move(form), train.first, std::move(train.arrays),
                                          std::move(validation.arrays), options.validation_fraction, errors.skipped(),
                                          options.statistics);
}

} // namespace tessera
