// SPDX-License-Identifier: Apache-2.0
// CSV (RFC 4180, a record to a line): features are numbers; what is to be found is one column of categories, or columns
// of numbers. Categories are numbered in the order of their bytes.
#include "core/data/array_samples.hpp"
#include "core/data/data_error.hpp"
#include "core/data/mapped_file.hpp"
#include "core/data/readers.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fmt/format.h>
#include <map>
#include <set>

namespace tessera {
namespace {

// The lines of a file, one after the other, as fields.
class Lines {
public:
    Lines(const MappedFile& file, char delimiter) : file_(file), rest_(file.text()), delimiter_(delimiter) {
        if (rest_.starts_with("\xEF\xBB\xBF")) rest_.remove_prefix(3); // a byte order mark
    }

    // False at the end. Empty lines are passed over.
    bool next(std::vector<std::string>& fields) {
        while (!rest_.empty()) {
            const std::size_t end = std::min(rest_.find('\n'), rest_.size());
            std::string_view line = rest_.substr(0, end);
            rest_.remove_prefix(std::min(end + 1, rest_.size()));
            ++number_;
            if (line.ends_with('\r')) line.remove_suffix(1);
            if (line.empty()) continue;
            cut(line, fields);
            return true;
        }
        return false;
    }

    std::string place() const { return fmt::format("{}:{}", file_.path(), number_); }
    [[noreturn]] void refuse(const std::string& why) const { throw DataError(place() + ": " + why); }

private:
    void cut(std::string_view line, std::vector<std::string>& fields) const {
        fields.clear();
        for (std::size_t at = 0;;) {
            std::string& field = fields.emplace_back();
            if (at < line.size() && line[at] == '"')
                at = unquote(line, at + 1, field);
            else
                while (at < line.size() && line[at] != delimiter_)
                    field += line[at++];
            if (at == line.size()) return;
            if (line[at] != delimiter_)
                refuse(fmt::format("field {}: expected '{}' after the closing quote", fields.size(), delimiter_));
            ++at;
        }
    }

    // From behind the opening quote to behind the closing one; two quotes are one.
    std::size_t unquote(std::string_view line, std::size_t at, std::string& field) const {
        for (; at < line.size(); ++at) {
            if (line[at] == '"' && (at + 1 == line.size() || line[at + 1] != '"')) return at + 1;
            if (line[at] == '"') ++at;
            field += line[at];
        }
        refuse("a quote is opened and not closed on this line");
    }

    const MappedFile& file_;
    std::string_view rest_;
    char delimiter_;
    std::int64_t number_ = 0;
};

std::string_view trimmed(std::string_view text) {
    while (text.starts_with(' ') || text.starts_with('\t'))
        text.remove_prefix(1);
    while (text.ends_with(' ') || text.ends_with('\t'))
        text.remove_suffix(1);
    return text;
}

// Which column is what.
struct Columns {
    std::vector<std::string> names;
    std::vector<std::size_t> features, targets;
    std::size_t label = 0; // where there are no targets
};

struct Table {
    SampleArrays arrays;                           // labels are not yet numbers
    std::vector<std::string> labels;               // of each sample
    std::map<std::string, std::string> first_seen; // FILE:LINE of each
};

class TableReader {
public:
    TableReader(const DatasetOptions& options, RecordErrors& errors) : options_(options), errors_(errors) {
        if (options.delimiter.size() != 1 || options.delimiter == "\"" || options.delimiter == "\n")
            throw ConfigError(fmt::format("data.delimiter is '{}', expected one character", options.delimiter));
        if (options.label_column.empty() == options.targets.empty())
            throw ConfigError("the reader 'csv' wants to know what to find: say data.label_column, a category, or "
                              "data.target_columns, numbers");
    }

    Table read(const std::vector<std::string>& patterns) {
        Table table;
        table.arrays.inputs = std::vector<float>();
        if (!options_.targets.empty()) table.arrays.targets = std::vector<float>();
        for (const std::string& path : matching_paths(patterns))
            errors_.attempt("file", [&] { read_file(path, table); });
        return table;
    }

    const Columns& columns() const { return columns_; }

private:
    void read_file(const std::string& path, Table& table) {
        const MappedFile file(path);
        Lines lines(file, options_.delimiter[0]);
        std::vector<std::string> fields;
        if (!lines.next(fields)) throw DataError(fmt::format("{}: the file has no line", path));
        if (columns_.names.empty())
            find_columns(lines, fields);
        else if (options_.header && names_of(fields) != columns_.names)
            lines.refuse("other columns than the files before it have");
        if (!options_.header) add(lines, fields, table);
        for (bool more = true; more;)
            errors_.attempt("row", [&] {
                while ((more = lines.next(fields)))
                    add(lines, fields, table);
            });
    }

    std::vector<std::string> names_of(const std::vector<std::string>& fields) const {
        std::vector<std::string> names;
        for (std::size_t i = 0; i < fields.size(); ++i)
            names.push_back(options_.header ? std::string(trimmed(fields[i])) : fmt::format("{}", i + 1));
        return names;
    }

    std::size_t column_named(const std::string& name, const Lines& lines) const {
        const auto found = std::ranges::find(columns_.names, name);
        if (found == columns_.names.end())
            lines.refuse(no_such_name("column", name, {columns_.names.begin(), columns_.names.end()}));
        return static_cast<std::size_t>(found - columns_.names.begin());
    }

    void find_columns(const Lines& lines, const std::vector<std::string>& first_line) {
        columns_.names = names_of(first_line);
        std::set<std::string_view> seen;
        for (const std::string& name : columns_.names)
            if (!seen.insert(name).second) lines.refuse(fmt::format("two columns are named '{}'", name));
        for (const std::string& name : options_.targets)
            columns_.targets.push_back(column_named(name, lines));
        std::vector<std::size_t> taken = columns_.targets;
        if (!options_.label_column.empty()) taken = {columns_.label = column_named(options_.label_column, lines)};
        for (std::size_t i = 0; i < columns_.names.size(); ++i)
            if (std::ranges::find(taken, i) == taken.end()) columns_.features.push_back(i);
        if (columns_.features.empty()) lines.refuse("no column is left to be a feature");
        const auto count = static_cast<std::int64_t>(columns_.features.size());
        if (options_.features > 0 && options_.features != count)
            lines.refuse(fmt::format("{} columns are features, data.features says {}", count, options_.features));
    }

    float number_in(const Lines& lines, const std::vector<std::string>& fields, std::size_t column) const {
        std::string_view text = trimmed(fields[column]);
        if (text.starts_with('+')) text.remove_prefix(1);
        float value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value))
            lines.refuse(fmt::format("column '{}' is '{}', expected a number", columns_.names[column], fields[column]));
        return value;
    }

    void add(const Lines& lines, const std::vector<std::string>& fields, Table& table) const {
        if (fields.size() != columns_.names.size())
            lines.refuse(fmt::format("{} fields, expected {}", fields.size(), columns_.names.size()));
        std::vector<float> numbers, wanted; // all of a row, or nothing
        for (const std::size_t column : columns_.features)
            numbers.push_back(number_in(lines, fields, column));
        for (const std::size_t column : columns_.targets)
            wanted.push_back(number_in(lines, fields, column));
        auto& inputs = std::get<std::vector<float>>(table.arrays.inputs);
        inputs.insert(inputs.end(), numbers.begin(), numbers.end());
        if (auto* targets = std::get_if<std::vector<float>>(&table.arrays.targets))
            targets->insert(targets->end(), wanted.begin(), wanted.end());
        if (columns_.targets.empty()) {
            table.labels.emplace_back(trimmed(fields[columns_.label]));
            if (!table.first_seen.contains(table.labels.back()))
                table.first_seen.emplace(table.labels.back(), lines.place());
        }
        ++table.arrays.count;
    }

    const DatasetOptions& options_;
    RecordErrors& errors_;
    Columns columns_;
};

// Numbers for labels, by the categories of the training part.
void number_labels(Table& table, const std::map<std::string, std::int32_t>& numbers) {
    auto& targets = std::get<std::vector<std::int32_t>>(table.arrays.targets);
    for (const std::string& label : table.labels) {
        const auto found = numbers.find(label);
        if (found == numbers.end())
            throw DataError(fmt::format("{}: the label '{}' is none of the {} classes of the training data",
                                        table.first_seen.at(label), label, numbers.size()));
        targets.push_back(found->second);
    }
}

} // namespace

std::unique_ptr<Dataset> read_table(const DatasetOptions& options) {
    if (options.files.empty()) throw ConfigError("the reader 'csv' needs files, none are given");
    RecordErrors errors(options.skip_errors);
    TableReader reader(options, errors);
    Table train = reader.read(options.files), validation = reader.read(options.validation_files);
    const Columns& columns = reader.columns();
    if (columns.names.empty()) throw DataError(fmt::format("{}: no file is left to train on", options.files[0]));
    SampleForm form{{{"features", {static_cast<std::int64_t>(columns.features.size())}, DType::f32}}};
    if (columns.targets.empty()) {
        std::map<std::string, std::int32_t> numbers;
        for (const auto& [label, place] : train.first_seen)
            numbers.emplace(label, static_cast<std::int32_t>(numbers.size()));
        form.classes = static_cast<std::int64_t>(numbers.size());
        if (options.classes > 0 && form.classes > options.classes)
            throw ConfigError(fmt::format("{}: column '{}' has {} labels, data.classes says {}", options.files[0],
                                          options.label_column, form.classes, options.classes));
        form.classes = std::max(form.classes, options.classes);
        number_labels(train, numbers);
        number_labels(validation, numbers);
        form.fields.push_back({"label", {}, DType::i32});
    } else {
        form.fields.push_back({"targets", {static_cast<std::int64_t>(columns.targets.size())}, DType::f32});
    }
    return std::make_unique<ArraySamples>(std::move(form), options.files[0], std::move(train.arrays),
                                          std::move(validation.arrays), options.validation_fraction, errors.skipped());
}

} // namespace tessera
