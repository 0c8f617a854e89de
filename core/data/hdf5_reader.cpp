// SPDX-License-Identifier: Apache-2.0
// Samples in HDF5 files: two datasets whose rows belong together, read piece by piece as they are needed, so that they
// need not fit into memory. Inputs are normalised as in array_samples.hpp, by the statistics of pieces that are evenly
// spread over the training part where this has more than 64 MiB.
#include "core/data/content_hash.hpp"
#include "core/data/data_error.hpp"
#include "core/data/hdf5_files.hpp"
#include "core/data/mapped_file.hpp"
#include "core/data/readers.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fmt/format.h>
#include <mutex>

namespace tessera {
namespace {

using Source = Hdf5Files::Source;

constexpr std::int64_t bytes_for_statistics = 64 << 20;
constexpr const char* not_finite = "holds a number that is not finite";
constexpr std::int64_t most_classes = 1 << 24;

[[noreturn]] void refuse_row(const Source& source, Hdf5Side side, std::int64_t row, const std::string& why) {
    throw DataError(fmt::format("{}: dataset '{}', sample {}: {}", source.path,
                                source.names[static_cast<std::size_t>(side)], row, why));
}

// The sums of one element, or of one that stands for all, sample after sample (Welford 1962).
struct Running {
    double mean = 0, squares = 0; // of the distance to it
    void add(double value, double count) {
        const double distance = value - mean;
        mean += distance / count;
        squares += distance * (value - mean);
    }
};

struct Part {
    std::int64_t begin = 0, count = 0; // of all samples
};

class Hdf5Samples final : public Dataset {
public:
    Hdf5Samples(SampleForm form, Hdf5Files files, std::array<Part, 2> parts, std::vector<SkippedRecords> skipped,
                const DatasetOptions& options)
        : form_(std::move(form)), files_(std::move(files)), parts_(parts), skipped_(std::move(skipped)),
          blocks_(files_.share_out(options.cache_bytes, parts[0].count)),
          normaliser_(options.statistics ? *options.statistics : find_statistics(), form_.fields[0].shape,
                      options.statistics_file) {}

    const SampleForm& form() const override { return form_; }
    std::int64_t samples(Split split) const override { return part(split).count; }
    SampleBlocks blocks(Split) const override { return blocks_; }
    const Tokenizer* tokenizer() const override { return nullptr; }
    std::vector<SkippedRecords> skipped() const override { return skipped_; }
    float black(std::int64_t, std::int64_t channel) const override { return normaliser_.black(channel); }
    const InputStatistics* statistics() const override { return &normaliser_.statistics(); }

    void read(Split split, std::int64_t sample, std::span<const View> views) const override {
        const auto [number, input, target] = rows_of(split, sample);
        with_finite(input, number, views[0].count(), [&](const auto* values) { normaliser_.apply(values, views[0]); });
        find(target, number, views[1]);
    }

    void read_stored(Split split, std::int64_t sample, std::span<double> numbers, const View& view) const override {
        const auto [number, input, target] = rows_of(split, sample);
        with_finite(input, number, std::ssize(numbers), [&](const auto* values) {
            for (double& to : numbers)
                to = static_cast<double>(*values++);
        });
        find(target, number, view);
    }

    // Of names, sizes, places and statistics: reading all takes too long for "have the data changed?".
    std::string fingerprint() const override {
        std::call_once(hashed_, [&] {
            ContentHash hash;
            for (const Source& source : files_.sources()) {
                const std::filesystem::path path = source.path;
                std::error_code error;
                for (const std::string& name : {path.filename().string(), source.names[0], source.names[1]})
                    hash.add(name.data(), name.size() + 1);
                hash.add(static_cast<std::int64_t>(std::filesystem::file_size(path, error)));
                hash.add(source.rows);
            }
            for (const Part& part : parts_) {
                hash.add(part.begin);
                hash.add(part.count);
            }
            hash.add(form_.classes);
            hash.add(std::span<const double>(normaliser_.statistics().means));
            hash.add(normaliser_.factors());
            fingerprint_ = hash.text();
        });
        return fingerprint_;
    }

private:
    const Part& part(Split split) const { return parts_[static_cast<std::size_t>(split)]; }

    struct Rows {
        std::int64_t number; // of all samples
        Hdf5Files::Row input, target;
    };
    Rows rows_of(Split split, std::int64_t sample) const {
        const Part& from = part(split);
        if (sample < 0 || sample >= from.count)
            throw InternalError(fmt::format("dataset: sample {} of {}", sample, from.count));
        const std::int64_t number = from.begin + sample;
        const std::lock_guard lock(mutex_);
        return {number, files_.row(Hdf5Side::input, number), files_.row(Hdf5Side::target, number)};
    }

    // work(values) of a row whose elements are finite.
    template <class Work>
    void with_finite(const Hdf5Files::Row& row, std::int64_t sample, std::int64_t elements, const Work& work) const {
        row.rows->with_values([&](const auto* values) {
            values += row.number * elements;
            for (std::int64_t i = 0; i < elements; ++i)
                if (!std::isfinite(static_cast<double>(values[i]))) refuse(Hdf5Side::input, sample, not_finite);
            work(values);
        });
    }

    void find(const Hdf5Files::Row& row, std::int64_t sample, const View& view) const {
        const std::int64_t wanted = view.count();
        row.rows->with_values([&](const auto* values) {
            values += row.number * wanted;
            if (form_.classes == 0) {
                for (std::int64_t i = 0; i < wanted; ++i) {
                    view.as<float>()[i] = static_cast<float>(values[i]);
                    if (!std::isfinite(view.as<float>()[i])) refuse(Hdf5Side::target, sample, not_finite);
                }
                return;
            }
            if (values[0] < 0 || static_cast<double>(values[0]) >= static_cast<double>(form_.classes))
                refuse(Hdf5Side::target, sample,
                       fmt::format("the label {} is none of the {} classes", values[0], form_.classes));
            *view.as<std::int32_t>() = static_cast<std::int32_t>(values[0]);
        });
    }

    [[noreturn]] void refuse(Hdf5Side side, std::int64_t sample, const std::string& why) const {
        const Source& source = files_.source_of(sample);
        refuse_row(source, side, sample - source.begin, why);
    }

    // How many pieces of a source are of the training part.
    std::int64_t training_pieces(const Source& source) const {
        const std::int64_t rows = std::min(source.rows, parts_[0].count - source.begin);
        return rows <= 0 ? 0 : (rows - 1) / source.pieces[0] + 1;
    }

    // The sums over rows [first, …) of a piece.
    void add_piece(const Source& source, std::int64_t first, std::vector<Running>& spreads, double& seen) {
        const std::int64_t rows =
            std::min({source.pieces[0], source.rows - first, parts_[0].count - source.begin - first});
        const auto elements = static_cast<std::size_t>(form_.fields[0].shape.count());
        files_.read(Hdf5Side::input, source, first, rows).with_values([&](const auto* values) {
            for (std::size_t i = 0; i < static_cast<std::size_t>(rows) * elements; ++i) {
                const auto value = static_cast<double>(values[i]);
                if (!std::isfinite(value))
                    refuse_row(source, Hdf5Side::input, first + static_cast<std::int64_t>(i / elements), not_finite);
                if (i % elements == 0 || spreads.size() == 1) ++seen;
                spreads[i % spreads.size()].add(value, seen);
            }
        });
    }

    InputStatistics find_statistics() {
        std::int64_t pieces = 0;
        for (const Source& source : files_.sources())
            pieces += training_pieces(source);
        const Source& any = files_.sources()[0];
        const std::int64_t bytes = std::min(any.pieces[0], any.rows) * any.row_bytes[0];
        const std::int64_t looked_at = std::clamp<std::int64_t>(bytes_for_statistics / bytes, 1, pieces);
        const auto elements = static_cast<std::size_t>(form_.fields[0].shape.count());
        std::vector<Running> spreads(files_.form(Hdf5Side::input).bytes ? 1 : elements);
        double seen = 0;             // values of each
        std::int64_t begin = 0;      // the first piece of the source
        const Source* source = &any; // of the piece
        for (std::int64_t i = 0; i < looked_at; ++i) {
            const std::int64_t piece = i * pieces / looked_at;
            for (; piece >= begin + training_pieces(*source); ++source)
                begin += training_pieces(*source);
            add_piece(*source, (piece - begin) * source->pieces[0], spreads, seen);
        }
        InputStatistics found;
        for (const Running& spread : spreads) {
            found.means.push_back(spread.mean);
            found.deviations.push_back(std::sqrt(spread.squares / seen));
        }
        return found;
    }

    SampleForm form_;
    mutable Hdf5Files files_;
    mutable std::mutex mutex_;  // of what files_ reads
    std::array<Part, 2> parts_; // by Split
    std::vector<SkippedRecords> skipped_;
    SampleBlocks blocks_;
    Normaliser normaliser_;
    mutable std::once_flag hashed_;
    mutable std::string fingerprint_;
};

// A sample as a model sees it. Images may lie in the file without their last dim of 1, or flat.
Field input_field(const DatasetOptions& options, const Hdf5Files& files) {
    const Shape& row = files.form(Hdf5Side::input).row;
    const std::string place = fmt::format("{}: dataset '{}'", files.sources()[0].path, options.input_field);
    if (!options.image_shape.empty()) {
        const Shape image{options.image_shape[0], options.image_shape[1], options.image_shape[2]};
        const bool flat = row.rank() == 1 && row.count() == image.count();
        const bool grey = image[2] == 1 && row.rank() == 2 && row[0] == image[0] && row[1] == image[1];
        if (row != image && !flat && !grey)
            throw DataError(
                fmt::format("{}: samples are {}, data.image_shape says {}", place, row.text(), image.text()));
        return {"image", image, DType::f32};
    }
    if (options.features > 0 && (row.rank() > 1 || row.count() != options.features))
        throw DataError(
            fmt::format("{}: samples are {}, data.features says ({})", place, row.text(), options.features));
    return {row.rank() == 3 ? "image" : "features", row.rank() == 0 ? Shape{1} : row, DType::f32};
}

// One more than the largest label of samples [0, samples).
std::int64_t count_classes(Hdf5Files& files, std::int64_t samples) {
    std::int64_t classes = 0;
    for (const Source& source : files.sources()) {
        const std::int64_t end = std::min(source.rows, samples - source.begin);
        for (std::int64_t first = 0; first < end; first += source.pieces[1]) {
            const std::int64_t count = std::min(source.pieces[1], end - first);
            files.read(Hdf5Side::target, source, first, count).with_values([&, &from = source](const auto* labels) {
                for (std::int64_t i = 0; i < count; ++i) {
                    if (labels[i] < 0 || static_cast<double>(labels[i]) >= static_cast<double>(most_classes))
                        refuse_row(from, Hdf5Side::target, first + i,
                                   fmt::format("the label {} is no class from 0 to {}", labels[i], most_classes - 1));
                    classes = std::max(classes, static_cast<std::int64_t>(labels[i]) + 1);
                }
            });
        }
    }
    return classes;
}

// The mean of each number to be found in samples [0, samples), from pieces that are evenly spread where there are many.
std::vector<double> means_of_targets(Hdf5Files& files, std::int64_t samples) {
    const auto columns = static_cast<std::size_t>(files.form(Hdf5Side::target).row.count());
    const std::int64_t every = samples * files.sources()[0].row_bytes[1] / bytes_for_statistics + 1;
    std::vector<double> sums(columns);
    std::int64_t piece = 0, seen = 0;
    for (const Source& source : files.sources()) {
        const std::int64_t end = std::min(source.rows, samples - source.begin);
        for (std::int64_t first = 0; first < end; first += source.pieces[1]) {
            if (piece++ % every != 0) continue;
            const std::int64_t count = std::min(source.pieces[1], end - first);
            files.read(Hdf5Side::target, source, first, count).with_values([&, &from = source](const auto* values) {
                for (std::size_t i = 0; i < static_cast<std::size_t>(count) * columns; ++i) {
                    const auto value = static_cast<double>(values[i]);
                    if (!std::isfinite(value))
                        refuse_row(from, Hdf5Side::target, first + static_cast<std::int64_t>(i / columns), not_finite);
                    sums[i % columns] += value;
                }
            });
            seen += count;
        }
    }
    for (double& sum : sums)
        sum /= static_cast<double>(seen);
    return sums;
}

std::int64_t add_files(const std::vector<std::string>& patterns, const std::string& input, const std::string& target,
                       RecordErrors& errors, Hdf5Files& files) {
    const std::int64_t before =
        files.sources().empty() ? 0 : files.sources().back().begin + files.sources().back().rows;
    std::int64_t after = before;
    for (const std::string& path : matching_paths(patterns))
        errors.attempt("file", [&] { after = files.add(path, input, target); });
    return after - before;
}

std::string either(const std::string& own, const std::string& other) { return own.empty() ? other : own; }

} // namespace

// Files that do not fit are found before the run; what is damaged in one is found when it is read, and ends the run.
std::unique_ptr<Dataset> read_hdf5(const DatasetOptions& options) {
    if (options.files.empty()) throw ConfigError("the reader 'hdf5' needs files, none are given");
    RecordErrors errors(options.skip_errors);
    Hdf5Files files;
    std::array<Part, 2> parts;
    const std::int64_t all = add_files(options.files, options.input_field, options.target_field, errors, files);
    if (all == 0) throw DataError(fmt::format("{}: no file is left to train on", options.files[0]));
    const bool own_fields = !options.validation_input_field.empty() || !options.validation_target_field.empty();
    if (!options.validation_files.empty() || own_fields) {
        parts = {Part{0, all}, Part{all, 0}};
        parts[1].count = add_files(options.validation_files.empty() ? options.files : options.validation_files,
                                   either(options.validation_input_field, options.input_field),
                                   either(options.validation_target_field, options.target_field), errors, files);
    } else {
        const auto kept =
            static_cast<std::int64_t>(std::floor((1 - options.validation_fraction) * static_cast<double>(all)));
        parts = {Part{0, kept}, Part{kept, all - kept}};
        if (kept == 0)
            throw DataError(fmt::format("{}: no sample is left to train on: {} in all, {} for validation",
                                        options.files[0], all, all));
    }
    SampleForm form{{input_field(options, files)}};
    const Hdf5Files::Form& wanted = files.form(Hdf5Side::target);
    if (wanted.whole_numbers) {
        form.fields.push_back({"label", {}, DType::i32});
        form.classes = options.classes > 0 ? options.classes : count_classes(files, all);
    } else {
        if (options.classes > 0)
            throw DataError(fmt::format("{}: dataset '{}': holds floats, which are numbers to be found, but "
                                        "data.classes says {} classes",
                                        files.sources()[0].path, options.target_field, options.classes));
        form.fields.push_back({"targets", {wanted.row.count()}, DType::f32});
        form.target_means = means_of_targets(files, parts[0].count);
    }
    return std::make_unique<Hdf5Samples>(std::move(form), std::move(files), parts, errors.skipped(), options);
}

} // namespace tessera
