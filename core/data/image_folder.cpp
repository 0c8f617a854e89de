// SPDX-License-Identifier: Apache-2.0
// Folders of images: a folder for each class, and in it, however deep, .jpg, .jpeg and .png files. Images are decoded
// when they are read, so that they need not fit into memory.
#include "core/data/content_hash.hpp"
#include "core/data/data_error.hpp"
#include "core/data/raster.hpp"
#include "core/data/readers.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <fmt/format.h>
#include <mutex>

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t images_for_statistics = 1024;

// Paths and classes of images, a path's characters behind those of the one before.
class ImageList {
public:
    void add(const std::string& path, std::int32_t label) {
        paths_ += path;
        ends_.push_back(paths_.size());
        labels_.push_back(label);
    }
    std::int64_t count() const { return static_cast<std::int64_t>(labels_.size()); }
    std::int32_t label(std::int64_t i) const { return labels_[static_cast<std::size_t>(i)]; }
    std::string path(std::int64_t i) const {
        const std::size_t begin = i == 0 ? 0 : ends_[static_cast<std::size_t>(i - 1)];
        return paths_.substr(begin, ends_[static_cast<std::size_t>(i)] - begin);
    }

private:
    std::string paths_;
    std::vector<std::size_t> ends_;
    std::vector<std::int32_t> labels_;
};

// What a folder holds but for names that begin with a dot, sorted.
std::vector<fs::path> entries_of(const fs::path& folder) {
    std::error_code error;
    std::vector<fs::path> found;
    for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
        if (!at->path().filename().string().starts_with('.')) found.push_back(at->path());
    if (error) throw DataError(fmt::format("{}: cannot be read as a folder: {}", folder.string(), error.message()));
    std::ranges::sort(found);
    return found;
}

bool has_name_of_image(const fs::path& path) {
    std::string ending = path.extension().string();
    std::ranges::transform(ending, ending.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return ending == ".jpg" || ending == ".jpeg" || ending == ".png";
}

void add_files(const fs::path& folder, std::vector<std::string>& found) {
    for (const fs::path& entry : entries_of(folder)) {
        if (fs::is_directory(entry))
            add_files(entry, found);
        else
            found.push_back(entry.string());
    }
}

class FolderWalk {
public:
    explicit FolderWalk(RecordErrors& errors) : errors_(errors) {}

    // The folders in all of `roots`, sorted by name; the same class may have some in several roots.
    static std::vector<std::string> classes_in(const std::vector<std::string>& roots) {
        std::vector<std::string> names;
        for (const std::string& root : roots)
            for (const fs::path& entry : entries_of(root))
                if (fs::is_directory(entry)) names.push_back(entry.filename().string());
        std::ranges::sort(names);
        names.erase(std::unique(names.begin(), names.end()), names.end());
        if (names.empty())
            throw DataError(fmt::format("{}: holds no folder, of which there is one for each class", roots[0]));
        return names;
    }

    ImageList walk(const std::vector<std::string>& roots, const std::vector<std::string>& classes) {
        ImageList images;
        for (const std::string& root : roots)
            for (const fs::path& entry : entries_of(root)) {
                if (!fs::is_directory(entry)) {
                    errors_.attempt("file", [&] { refuse(entry, "stands beside the folders of classes"); });
                    continue;
                }
                const auto label = std::ranges::find(classes, entry.filename().string());
                if (!errors_.attempt("folder", [&] {
                        if (label == classes.end())
                            refuse(entry, fmt::format("none of the {} classes of the training data", classes.size()));
                    }))
                    continue;
                const std::int64_t before = images.count();
                add(entry, static_cast<std::int32_t>(label - classes.begin()), images);
                if (images.count() == before) errors_.attempt("folder", [&] { refuse(entry, "holds no image"); });
            }
        return images;
    }

private:
    [[noreturn]] static void refuse(const fs::path& path, std::string_view why) {
        throw DataError(fmt::format("{}: {}", path.string(), why));
    }

    // Where such files are left out, each is looked at now: how many samples there are must be known.
    void add(const fs::path& folder, std::int32_t label, ImageList& images) {
        for (const fs::path& entry : entries_of(folder)) {
            if (fs::is_directory(entry)) {
                add(entry, label, images);
                continue;
            }
            errors_.attempt("file", [&] {
                if (!has_name_of_image(entry)) refuse(entry, "its name ends in none of .jpg, .jpeg and .png");
                if (errors_.skips()) check_image(MappedFile(entry.string()));
                images.add(entry.string(), label);
            });
        }
    }

    RecordErrors& errors_;
};

// Every 1 / fraction-th image is for validation, so that all classes have some.
std::array<ImageList, 2> split(const ImageList& all, double fraction) {
    std::array<ImageList, 2> parts;
    const auto before = [&](std::int64_t i) {
        return static_cast<std::int64_t>(std::floor(static_cast<double>(i) * fraction));
    };
    for (std::int64_t i = 0; i < all.count(); ++i)
        parts[before(i + 1) > before(i) ? 1 : 0].add(all.path(i), all.label(i));
    return parts;
}

class ImageFolder final : public Dataset {
public:
    ImageFolder(SampleForm form, std::array<ImageList, 2> parts, std::vector<SkippedRecords> skipped,
                const DatasetOptions& options)
        : form_(std::move(form)), parts_(std::move(parts)), skipped_(std::move(skipped)),
          given_statistics_(options.statistics.has_value()),
          normaliser_(given_statistics_ ? *options.statistics : find_statistics(), form_.fields[0].shape,
                      options.statistics_file) {}

    const SampleForm& form() const override { return form_; }
    std::int64_t samples(Split split) const override { return part(split).count(); }
    const Tokenizer* tokenizer() const override { return nullptr; }
    std::vector<SkippedRecords> skipped() const override { return skipped_; }
    float black(std::int64_t, std::int64_t channel) const override { return normaliser_.black(channel); }
    const InputStatistics* statistics() const override { return &normaliser_.statistics(); }

    void read(Split split, std::int64_t sample, std::span<const View> views) const override {
        const ImageList& from = checked(split, sample);
        auto* pixels = views[0].as<float>();
        decode(from.path(sample), pixels);
        normaliser_.apply(pixels, views[0]);
        *views[1].as<std::int32_t>() = from.label(sample);
    }

    void read_stored(Split split, std::int64_t sample, std::span<double> numbers, const View& target) const override {
        const ImageList& from = checked(split, sample);
        std::vector<float> pixels(numbers.size());
        decode(from.path(sample), pixels.data());
        std::ranges::copy(pixels, numbers.begin());
        *target.as<std::int32_t>() = from.label(sample);
    }

    // Of names and sizes: reading all images takes too long for "have the data changed?".
    std::string fingerprint() const override {
        std::call_once(hashed_, [&] {
            ContentHash hash;
            if (given_statistics_) {
                hash.add(std::span<const double>(normaliser_.statistics().means));
                hash.add(std::span<const double>(normaliser_.statistics().deviations));
            }
            for (const ImageList& part : parts_) {
                hash.add(part.count());
                for (std::int64_t i = 0; i < part.count(); ++i) {
                    const fs::path path = part.path(i);
                    const std::string name = path.filename().string();
                    std::error_code error;
                    hash.add(name.data(), name.size() + 1);
                    hash.add(static_cast<std::int64_t>(fs::file_size(path, error)));
                    hash.add(part.label(i));
                }
            }
            fingerprint_ = hash.text();
        });
        return fingerprint_;
    }

private:
    const ImageList& part(Split split) const { return parts_[static_cast<std::size_t>(split)]; }

    const ImageList& checked(Split split, std::int64_t sample) const {
        const ImageList& from = part(split);
        if (sample < 0 || sample >= from.count())
            throw InternalError(fmt::format("dataset: sample {} of {}", sample, from.count()));
        return from;
    }

    void decode(const std::string& path, float* pixels) const {
        const Shape& shape = form_.fields[0].shape;
        resample(decode_image(MappedFile(path), shape[2], shape[0], shape[1]), shape[0], shape[1], pixels);
    }

    // Mean and standard deviation of images to train on, evenly spread where there are many.
    InputStatistics find_statistics() const {
        const std::int64_t count = parts_[0].count(), looked_at = std::min(count, images_for_statistics);
        std::vector<float> pixels(static_cast<std::size_t>(form_.fields[0].shape.count()));
        double sum = 0, squares = 0;
        for (std::int64_t i = 0; i < looked_at; ++i) {
            decode(parts_[0].path(i * count / looked_at), pixels.data());
            for (const float value : pixels) {
                sum += static_cast<double>(value);
                squares += static_cast<double>(value) * static_cast<double>(value);
            }
        }
        const double values = static_cast<double>(looked_at) * static_cast<double>(pixels.size());
        const double mean = sum / values, variance = squares / values - mean * mean;
        return {{mean}, {variance > 1e-6 ? std::sqrt(variance) : 0}};
    }

    SampleForm form_;
    std::array<ImageList, 2> parts_; // by Split
    std::vector<SkippedRecords> skipped_;
    bool given_statistics_;
    Normaliser normaliser_;
    mutable std::once_flag hashed_;
    mutable std::string fingerprint_;
};

} // namespace

std::vector<std::string> files_below(const std::string& folder) {
    std::vector<std::string> found;
    add_files(folder, found);
    return found;
}

std::unique_ptr<Dataset> read_image_folder(const DatasetOptions& options) {
    if (options.files.empty()) throw ConfigError("the reader 'image_folder' needs folders, none are given");
    if (options.image_shape.size() != 3) throw ConfigError("the reader 'image_folder' needs the shape of images");
    const std::vector<std::string> roots = matching_paths(options.files);
    const std::vector<std::string> classes = FolderWalk::classes_in(roots);
    const auto count = static_cast<std::int64_t>(classes.size());
    if (options.classes > 0 && options.classes < count)
        throw DataError(
            fmt::format("{}: {} folders of classes, data.classes says {}", roots[0], count, options.classes));
    RecordErrors errors(options.skip_errors);
    FolderWalk walk(errors);
    std::array<ImageList, 2> parts{walk.walk(roots, classes), {}};
    if (options.validation_files.empty())
        parts = split(parts[0], options.validation_fraction);
    else
        parts[1] = walk.walk(matching_paths(options.validation_files), classes);
    if (parts[0].count() == 0) throw DataError(fmt::format("{}: no image is left to train on", roots[0]));
    const Shape shape{options.image_shape[0], options.image_shape[1], options.image_shape[2]};
    SampleForm form{{{"image", shape, DType::f32}, {"label", {}, DType::i32}}, std::max(count, options.classes)};
    form.class_names = classes;
    return std::make_unique<ImageFolder>(std::move(form), std::move(parts), errors.skipped(), options);
}

} // namespace tessera
