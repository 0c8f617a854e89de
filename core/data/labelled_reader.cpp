// SPDX-License-Identifier: Apache-2.0
// Texts with a label: of each line of a table one or two columns, tokenised once, and a column of categories. A sample
// is the texts between their marks ([CLS] … [SEP], and … [SEP] of the second), cut where they are too long and filled
// up where they are short. Categories are numbered in the order of their bytes, as a csv's.
#include "core/data/content_hash.hpp"
#include "core/data/readers.hpp"
#include "core/data/table_lines.hpp"
#include "core/data/text_marks.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <fmt/format.h>
#include <map>
#include <mutex>
#include <set>

namespace tessera {
namespace {

struct LabelledRecord {
    std::vector<std::string> texts;
    std::string label, place; // FILE:LINE
};

class LabelledTables {
public:
    LabelledTables(const DatasetOptions& options, RecordErrors& errors) : options_(options), errors_(errors) {}

    std::vector<LabelledRecord> read(const std::vector<std::string>& patterns) {
        std::vector<LabelledRecord> records;
        for (const std::string& path : matching_paths(patterns))
            errors_.attempt("file", [&] { read_file(path, records); });
        return records;
    }

private:
    void read_file(const std::string& path, std::vector<LabelledRecord>& records) const {
        const MappedFile file(path);
        TableLines lines(file, options_.delimiter[0], options_.delimiter == "\t" ? "" : "\"");
        std::vector<std::string> fields;
        if (!lines.next(fields)) throw DataError(fmt::format("{}: the file has no line", path));
        std::vector<std::string> names;
        for (std::size_t i = 0; i < fields.size(); ++i)
            names.push_back(options_.header ? std::string(trimmed(fields[i])) : fmt::format("{}", i + 1));
        std::vector<std::size_t> columns;
        for (const std::string& name : options_.text_columns)
            columns.push_back(column_named(name, names, lines));
        columns.push_back(column_named(options_.label_column, names, lines));
        if (!options_.header) errors_.attempt("row", [&] { add(lines, fields, names, columns, records); });
        for (bool more = true; more;)
            errors_.attempt("row", [&] {
                while ((more = lines.next(fields)))
                    add(lines, fields, names, columns, records);
            });
    }

    static std::size_t column_named(const std::string& name, const std::vector<std::string>& names,
                                    const TableLines& lines) {
        const auto found = std::ranges::find(names, name);
        if (found == names.end()) lines.refuse(no_such_name("column", name, {names.begin(), names.end()}));
        return static_cast<std::size_t>(found - names.begin());
    }

    static void add(const TableLines& lines, const std::vector<std::string>& fields,
                    const std::vector<std::string>& names, const std::vector<std::size_t>& columns,
                    std::vector<LabelledRecord>& records) {
        if (fields.size() != names.size())
            lines.refuse(fmt::format("{} fields, expected {}", fields.size(), names.size()));
        LabelledRecord record{{}, std::string(trimmed(fields[columns.back()])), lines.place()};
        for (std::size_t i = 0; i + 1 < columns.size(); ++i)
            record.texts.push_back(fields[columns[i]]);
        for (const std::size_t column : columns)
            if (trimmed(fields[column]).empty()) lines.refuse(fmt::format("column '{}' is empty", names[column]));
        records.push_back(std::move(record));
    }

    const DatasetOptions& options_;
    RecordErrors& errors_;
};

class LabelledTexts final : public Dataset {
public:
    explicit LabelledTexts(const DatasetOptions& options)
        : errors_(options.skip_errors), texts_(options.text_columns.size()) {
        LabelledTables tables(options, errors_);
        std::vector<LabelledRecord> train = tables.read(options.files),
                                    validation = tables.read(options.validation_files);
        if (options.validation_files.empty()) {
            const auto kept = static_cast<std::size_t>(
                std::floor((1 - options.validation_fraction) * static_cast<double>(train.size())));
            validation.assign(train.begin() + static_cast<std::ptrdiff_t>(kept), train.end());
            train.resize(kept);
        }
        make_tokenizer(options, train, validation);
        number_labels(options, train);
        encode(train, parts_[0]);
        encode(validation, parts_[1]);
        if (samples(Split::train) == 0)
            throw DataError(fmt::format("{}: no text is left to train on", options.files[0]));
        form_ = labelled_form(options.sequence_length,
                              std::max(static_cast<std::int64_t>(numbers_.size()), options.classes), marks_);
        for (const auto& [label, number] : numbers_)
            form_.class_names.push_back(label);
    }

    const SampleForm& form() const override { return form_; }
    std::int64_t samples(Split split) const override {
        return static_cast<std::int64_t>(parts_[static_cast<std::size_t>(split)].labels.size());
    }
    std::vector<SkippedRecords> skipped() const override { return errors_.skipped(); }
    const Tokenizer* tokenizer() const override { return tokenizer_.get(); }

    void read(Split split, std::int64_t sample, std::span<const View> views) const override {
        if (sample < 0 || sample >= samples(split) || views.size() != 2)
            throw InternalError(fmt::format("dataset: sample {} of {}", sample, samples(split)));
        const Part& part = parts_[static_cast<std::size_t>(split)];
        const auto room = static_cast<std::size_t>(form_.fields[0].shape[0]);
        std::array<std::span<const std::int32_t>, 2> texts{};
        for (std::size_t i = 0; i < texts_; ++i)
            texts[i] = part.text(static_cast<std::size_t>(sample) * texts_ + i);
        while (texts[0].size() + texts[1].size() + texts_ + 1 > room) { // the longer one is cut, of two the second
            std::span<const std::int32_t>& longer = texts[texts[1].size() >= texts[0].size() ? 1 : 0];
            longer = longer.first(longer.size() - 1);
        }
        auto* to = views[0].as<std::int32_t>();
        auto* const end = to + room;
        *to++ = marks_.begin;
        for (std::size_t i = 0; i < texts_; ++i) {
            to = std::ranges::copy(texts[i], to).out;
            *to++ = marks_.end;
        }
        std::fill(to, end, marks_.padding);
        *views[1].as<std::int32_t>() = part.labels[static_cast<std::size_t>(sample)];
    }

    std::string fingerprint() const override {
        std::call_once(hashed_, [&] {
            ContentHash hash;
            hash.add(marks_.vocabulary);
            hash.add(form_.classes);
            const std::string saved = tokenizer_->save();
            hash.add(saved.data(), saved.size());
            for (const Part& part : parts_) {
                hash.add(std::span<const std::int32_t>(part.tokens));
                hash.add(std::span<const std::size_t>(part.begins));
                hash.add(std::span<const std::int32_t>(part.labels));
            }
            fingerprint_ = hash.text();
        });
        return fingerprint_;
    }

private:
    struct Part { // tokens back to back; text i is [begins[i], begins[i + 1])
        std::vector<std::int32_t> tokens, labels;
        std::vector<std::size_t> begins{0};

        std::span<const std::int32_t> text(std::size_t i) const {
            return std::span(tokens).subspan(begins[i], begins[i + 1] - begins[i]);
        }
    };

    void make_tokenizer(const DatasetOptions& options, const std::vector<LabelledRecord>& train,
                        const std::vector<LabelledRecord>& validation) {
        if (options.tokenizer_json.empty()) {
            std::vector<NamedText> texts;
            for (const std::vector<LabelledRecord>* records : {&train, &validation})
                for (const LabelledRecord& record : *records)
                    for (const std::string& text : record.texts)
                        texts.push_back({record.place, text});
            leave_out_broken(texts, options);
            tokenizer_ = train_tokenizer(options.tokenizer, texts);
        } else {
            tokenizer_ = Tokenizer::load(options.tokenizer_json);
        }
        marks_ = class_marks(*tokenizer_);
        marks_.vocabulary = std::max(marks_.vocabulary, options.token_vocabulary);
    }

    void number_labels(const DatasetOptions& options, const std::vector<LabelledRecord>& train) {
        for (const LabelledRecord& record : train)
            numbers_.emplace(record.label, 0);
        std::int32_t next = 0;
        for (auto& [label, number] : numbers_)
            number = next++;
        if (options.classes > 0 && next > options.classes)
            throw ConfigError(fmt::format("{}: column '{}' has {} labels, data.classes says {}", options.files[0],
                                          options.label_column, next, options.classes));
    }

    void encode(const std::vector<LabelledRecord>& records, Part& part) {
        for (const LabelledRecord& record : records)
            errors_.attempt("row", [&] {
                const auto number = numbers_.find(record.label);
                if (number == numbers_.end())
                    throw DataError(fmt::format("{}: the label '{}' is none of the {} classes of the training data",
                                                record.place, record.label, numbers_.size()));
                std::vector<std::vector<std::int32_t>> ids;
                try {
                    for (const std::string& text : record.texts)
                        ids.push_back(tokenizer_->encode(text, record.place));
                } catch (const ConfigError& error) { // the tokenizer does not know that its text is of a file
                    throw DataError(error.what());
                }
                for (const std::vector<std::int32_t>& text : ids) {
                    part.tokens.insert(part.tokens.end(), text.begin(), text.end());
                    part.begins.push_back(part.tokens.size());
                }
                part.labels.push_back(number->second);
            });
    }

    RecordErrors errors_;
    SampleForm form_;
    std::unique_ptr<Tokenizer> tokenizer_;
    TextMarks marks_;
    std::size_t texts_;                           // of a sample
    std::map<std::string, std::int32_t> numbers_; // of labels
    std::array<Part, 2> parts_;                   // by Split
    mutable std::once_flag hashed_;
    mutable std::string fingerprint_;
};

} // namespace

SampleForm labelled_form(std::int64_t tokens, std::int64_t classes, const TextMarks& marks) {
    SampleForm form{{{"tokens", {tokens}, DType::i32}, {"label", {}, DType::i32}}, classes};
    form.marks = marks;
    return form;
}

std::unique_ptr<Dataset> read_labelled(const DatasetOptions& options) {
    if (options.files.empty()) throw ConfigError("the reader 'labelled' needs files, none are given");
    if (options.delimiter.size() != 1 || options.delimiter == "\"" || options.delimiter == "\n")
        throw ConfigError(fmt::format("data.delimiter is '{}', expected one character", options.delimiter));
    if (options.label_column.empty() || options.text_columns.empty() || options.text_columns.size() > 2)
        throw ConfigError("the reader 'labelled' wants data.label_column and one or two data.text_columns");
    const auto least = static_cast<std::int64_t>(options.text_columns.size()) * 2 + 1;
    if (options.sequence_length < least || options.sequence_length > 1 << 30)
        throw ConfigError(
            fmt::format("training.seq_len is {}, expected from {} (a token of each text and the marks) to {}",
                        options.sequence_length, least, 1 << 30));
    return std::make_unique<LabelledTexts>(options);
}

} // namespace tessera
