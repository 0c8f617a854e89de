// SPDX-License-Identifier: Apache-2.0
// Samples in HDF5 files: datasets whose rows belong together, read piece by piece as they are needed, so that they need
// not fit into memory. Inputs are normalised as in array_samples.hpp, each by its own statistics (hdf5_scan.hpp).
#include "core/data/content_hash.hpp"
#include "core/data/data_error.hpp"
#include "core/data/hdf5_files.hpp"
#include "core/data/hdf5_scan.hpp"
#include "core/data/mapped_file.hpp"
#include "core/data/readers.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <fmt/format.h>
#include <mutex>

namespace tessera {
namespace {

using Source = Hdf5Files::Source;

struct Part {
    std::int64_t begin = 0, count = 0; // of all samples
};

class Hdf5Samples final : public Dataset {
public:
    Hdf5Samples(SampleForm form, Hdf5Files files, std::array<Part, 2> parts, std::vector<SkippedRecords> skipped,
                const DatasetOptions& options)
        : form_(std::move(form)), files_(std::move(files)), parts_(parts), skipped_(std::move(skipped)),
          blocks_(files_.share_out(options.cache_bytes, training_rows())) {
        for (std::size_t i = 0; i < files_.inputs(); ++i)
            normalisers_.emplace_back(i == 0 && options.statistics ? *options.statistics
                                                                   : find_statistics(files_, i, training_rows()),
                                      form_.fields[i].shape, options.statistics_file);
    }

    const SampleForm& form() const override { return form_; }
    std::int64_t samples(Split split) const override { return part(split).count; }
    SampleBlocks blocks(Split) const override { return blocks_; }
    const Tokenizer* tokenizer() const override { return nullptr; }
    std::vector<SkippedRecords> skipped() const override { return skipped_; }
    float black(std::int64_t, std::int64_t channel) const override { return normalisers_[0].black(channel); }
    const InputStatistics* statistics() const override { return &normalisers_[0].statistics(); }

    void read(Split split, std::int64_t sample, std::span<const View> views) const override {
        const Rows rows = rows_of(split, sample);
        for (std::size_t i = 0; i < views.size(); ++i)
            if (i < files_.inputs())
                with_sound(rows, i, [&](const auto* values) { normalisers_[i].apply(values, views[i]); });
            else
                find(rows, i, views[i]);
    }

    void read_stored(Split split, std::int64_t sample, std::span<double> numbers, const View& view) const override {
        const Rows rows = rows_of(split, sample);
        for (std::size_t i = 0; i + 1 < files_.fields(); ++i)
            with_sound(rows, i, [&](const auto* values) {
                if (i == 0) std::ranges::transform(std::span(values, numbers.size()), numbers.begin(), as_double);
            });
        find(rows, files_.fields() - 1, view);
    }

    // Of names, sizes, places and statistics: reading all takes too long for "have the data changed?".
    std::string fingerprint() const override {
        std::call_once(hashed_, [&] {
            ContentHash hash;
            for (const Source& source : files_.sources()) {
                const std::filesystem::path path = source.path;
                std::error_code error;
                const std::string file = path.filename().string();
                hash.add(file.data(), file.size() + 1);
                for (const std::string& name : source.names)
                    hash.add(name.data(), name.size() + 1);
                hash.add(static_cast<std::int64_t>(std::filesystem::file_size(path, error)));
                hash.add(source.rows);
            }
            for (const Part& part : parts_) {
                hash.add(part.begin);
                hash.add(part.count);
            }
            hash.add(form_.classes);
            for (const SampleForm::Wanted& each : form_.wanted)
                hash.add(each.classes);
            for (const Normaliser& normaliser : normalisers_) {
                hash.add(std::span<const double>(normaliser.statistics().means));
                hash.add(normaliser.factors());
            }
            fingerprint_ = hash.text();
        });
        return fingerprint_;
    }

private:
    const Part& part(Split split) const { return parts_[static_cast<std::size_t>(split)]; }
    static constexpr auto as_double = [](auto value) { return static_cast<double>(value); };

    // Behind the last row to train on.
    std::int64_t training_rows() const { return files_.row_of(parts_[0].count - 1) + 1; }

    struct Rows {
        std::int64_t number; // of all rows
        std::vector<Hdf5Files::Row> fields;
    };
    Rows rows_of(Split split, std::int64_t sample) const {
        const Part& from = part(split);
        if (sample < 0 || sample >= from.count)
            throw InternalError(fmt::format("dataset: sample {} of {}", sample, from.count));
        Rows rows{files_.row_of(from.begin + sample), {}};
        const std::lock_guard lock(mutex_);
        for (std::size_t i = 0; i < files_.fields(); ++i)
            rows.fields.push_back(files_.row(i, rows.number));
        return rows;
    }

    // work(values) of a row that is right.
    template <class Work> void with_sound(const Rows& rows, std::size_t field, const Work& work) const {
        const std::int64_t elements = files_.form(field).row.count();
        rows.fields[field].rows->with_values([&](const auto* values) {
            values += rows.fields[field].number * elements;
            const std::string fault = fault_of(files_, field, values, elements, form_.classes_of(field));
            if (!fault.empty()) refuse_row(files_, field, rows.number, fault);
            work(values);
        });
    }

    void find(const Rows& rows, std::size_t field, const View& view) const {
        with_sound(rows, field, [&](const auto* values) {
            if (view.dtype == DType::i32)
                *view.as<std::int32_t>() = static_cast<std::int32_t>(*values);
            else
                for (std::int64_t i = 0; i < view.count(); ++i)
                    view.as<float>()[i] = static_cast<float>(values[i]);
        });
    }

    SampleForm form_;
    mutable Hdf5Files files_;
    mutable std::mutex mutex_;  // of what files_ reads
    std::array<Part, 2> parts_; // by Split
    std::vector<SkippedRecords> skipped_;
    SampleBlocks blocks_;
    std::vector<Normaliser> normalisers_; // of inputs
    mutable std::once_flag hashed_;
    mutable std::string fingerprint_;
};

// A sample as a model sees it. Images may lie in the file without their last dim of 1, or flat.
Field input_field(const DatasetOptions& options, const Hdf5Files& files) {
    const Shape& row = files.form(0).row;
    const std::string place = fmt::format("{}: dataset '{}'", files.sources()[0].path, files.sources()[0].names[0]);
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

std::int64_t add_files(const std::vector<std::string>& patterns, const std::vector<std::string>& names,
                       RecordErrors& errors, Hdf5Files& files) {
    const std::int64_t before =
        files.sources().empty() ? 0 : files.sources().back().begin + files.sources().back().rows;
    std::int64_t after = before;
    for (const std::string& path : matching_paths(patterns))
        errors.attempt("file", [&] { after = files.add(path, names); });
    return after - before;
}

// The datasets of a part, inputs before targets.
std::vector<std::string> joined(std::vector<std::string> inputs, const std::vector<std::string>& targets) {
    inputs.insert(inputs.end(), targets.begin(), targets.end());
    return inputs;
}

template <class T> const T& either(const T& own, const T& other) { return own.empty() ? other : own; }

std::vector<std::string> names_of(const DatasetOptions& options, Split split) {
    const bool training = split == Split::train;
    if (options.input_fields.empty())
        return training ? std::vector{options.input_field, options.target_field}
                        : std::vector{either(options.validation_input_field, options.input_field),
                                      either(options.validation_target_field, options.target_field)};
    return training ? joined(options.input_fields, options.target_fields)
                    : joined(either(options.validation_input_fields, options.input_fields),
                             either(options.validation_target_fields, options.target_fields));
}

// The rows of the files: all to train on or to split; of labels to count; to train on.
struct Extent {
    std::int64_t labelled = 0, training = 0;
};

// Integers are a label, floats numbers. `classes`: 0: as many as the files have.
void add_target(const Field& field, Hdf5Files& files, const Extent& extent, std::int64_t classes, SampleForm& form) {
    const std::size_t at = form.fields.size();
    form.fields.push_back(field);
    form.classes = 0;
    form.target_means.clear();
    if (field.dtype == DType::i32)
        form.classes = classes > 0 ? classes : count_classes(files, at, extent.labelled);
    else
        form.target_means = means_of_targets(files, at, extent.training);
}

SampleForm form_of(const DatasetOptions& options, Hdf5Files& files, const Extent& extent) {
    SampleForm form{{input_field(options, files)}};
    const bool named = !options.input_fields.empty();
    const std::vector<std::string>& names = files.sources()[0].names;
    if (named) form.fields[0].name = field_name(names[0]);
    for (std::size_t i = 1; i < files.inputs(); ++i) {
        const Shape& row = files.form(i).row;
        form.fields.push_back({field_name(names[i]), row.rank() == 0 ? Shape{1} : row, DType::f32});
    }
    std::int64_t labels = 0;
    for (std::size_t i = files.inputs(); i < files.fields(); ++i)
        labels += files.form(i).whole_numbers ? 1 : 0;
    if (options.classes > 0 && labels != 1)
        throw DataError(labels == 0 ? fmt::format("{}: dataset '{}': holds floats, which are numbers to be found, but "
                                                  "data.classes says {} classes",
                                                  files.sources()[0].path, names.back(), options.classes)
                                    : fmt::format("{}: data.classes says {}, and there are {} labels: leave it at 0",
                                                  files.sources()[0].path, options.classes, labels));
    std::vector<SampleForm::Wanted> wanted(files.inputs());
    for (std::size_t i = files.inputs(); i < files.fields(); ++i) {
        const bool label = files.form(i).whole_numbers;
        Field field{label ? "label" : "targets", label ? Shape{} : Shape{files.form(i).row.count()},
                    label ? DType::i32 : DType::f32};
        if (named) field.name = field_name(names[i]);
        add_target(field, files, extent, options.classes, form);
        wanted.push_back({form.classes, form.target_means});
    }
    if (wanted.size() > files.inputs() + 1) form.wanted = std::move(wanted);
    return form;
}

} // namespace

// Files that do not fit are found before the run; what is damaged in one is found when it is read, and ends the run:
// unless errors are skipped, for which all is read before the run.
std::unique_ptr<Dataset> read_hdf5(const DatasetOptions& options) {
    if (options.files.empty()) throw ConfigError("the reader 'hdf5' needs files, none are given");
    RecordErrors errors(options.skip_errors);
    Hdf5Files files(std::max<std::size_t>(options.input_fields.size(), 1));
    const std::int64_t rows = add_files(options.files, names_of(options, Split::train), errors, files);
    if (rows == 0) throw DataError(fmt::format("{}: no file is left to train on", options.files[0]));
    const bool own_fields = !options.validation_input_field.empty() || !options.validation_target_field.empty() ||
                            !options.validation_input_fields.empty() || !options.validation_target_fields.empty();
    const bool own_rows = !options.validation_files.empty() || own_fields;
    std::int64_t others = 0;
    if (own_rows)
        others = add_files(options.validation_files.empty() ? options.files : options.validation_files,
                           names_of(options, Split::validation), errors, files);
    if (options.skip_errors && !options.records_later)
        leave_out_broken(files, std::vector<std::int64_t>(files.fields(), options.classes), errors);
    const std::int64_t all = rows - files.left_out_before(rows);
    others -= files.left_out_before(rows + others) - files.left_out_before(rows);
    std::array<Part, 2> parts = {Part{0, all}, Part{all, others}};
    if (!own_rows) {
        parts[0].count =
            static_cast<std::int64_t>(std::floor((1 - options.validation_fraction) * static_cast<double>(all)));
        parts[1] = {parts[0].count, all - parts[0].count};
    }
    if (parts[0].count == 0)
        throw DataError(
            fmt::format("{}: no sample is left to train on: {} in all, {} for validation", options.files[0], all, all));
    SampleForm form = form_of(options, files, {rows, files.row_of(parts[0].count - 1) + 1});
    return std::make_unique<Hdf5Samples>(std::move(form), std::move(files), parts, errors.skipped(), options);
}

} // namespace tessera
