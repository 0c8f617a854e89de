// SPDX-License-Identifier: Apache-2.0
// CSV, TSV and ARFF: features are numbers, or categories that become a number for each, and one input or several; what
// is to be found is one column of categories, columns of numbers, or both. Categories are numbered in the order of
// their bytes, or as ARFF lists them.
#include "core/data/arff_header.hpp"
#include "core/data/array_samples.hpp"
#include "core/data/data_error.hpp"
#include "core/data/mapped_file.hpp"
#include "core/data/readers.hpp"
#include "core/data/table_lines.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fmt/format.h>
#include <fnmatch.h>
#include <limits>
#include <map>
#include <optional>
#include <set>

namespace tessera {
namespace {

// Which column is what.
struct Columns {
    std::vector<std::string> names;
    std::vector<std::size_t> features{}, targets{};
    std::vector<std::size_t> inputs{}; // of each input, the number of its features' columns; empty: one has them all
    std::optional<std::size_t> label{};
    // Of features and labels that are categories: as they are listed, or empty where the training data say it.
    std::map<std::size_t, std::vector<std::string>> categories;
};

constexpr float missing = std::numeric_limits<float>::quiet_NaN();

bool is_missing(std::string_view text) {
    return text.empty() || text == "?" || text == "NA" || text == "NaN" || text == "nan" || text == "null";
}

struct Table {
    SampleArrays arrays;                           // labels are not yet numbers
    std::vector<std::string> labels;               // of each sample
    std::map<std::string, std::string> first_seen; // FILE:LINE of each
    // Of features that are categories, by column: the words of each sample, "" where it is missing.
    std::map<std::size_t, std::vector<std::string>> words;
};

class TableReader {
public:
    TableReader(const DatasetOptions& options, RecordErrors& errors) : options_(options), errors_(errors) {
        if (options.delimiter.size() != 1 || options.delimiter == "\"" || options.delimiter == "\n")
            throw ConfigError(fmt::format("data.delimiter is '{}', expected one character", options.delimiter));
        if (options.label_column.empty() && options.targets.empty())
            throw ConfigError("the reader 'csv' wants to know what to find: say data.label_column, a category, or "
                              "data.target_columns, numbers");
    }

    Table read(const std::vector<std::string>& patterns) {
        Table table;
        table.arrays.inputs = std::vector<float>();
        if (options_.label_column.empty()) table.arrays.targets = std::vector<float>();
        for (const std::string& path : matching_paths(patterns))
            errors_.attempt("file", [&] { read_file(path, table); });
        return table;
    }

    const Columns& columns() const { return columns_; }

private:
    void read_file(const std::string& path, Table& table) {
        const MappedFile file(path);
        const bool arff = options_.reader == "arff";
        TableLines lines(file, arff ? ',' : options_.delimiter[0], quotes(), arff ? '%' : '\0');
        std::vector<std::string> fields;
        std::map<std::size_t, std::vector<std::string>> listed;
        if (arff) {
            ArffHeader header = read_arff_header(lines);
            listed = std::move(header.categories);
            fields = std::move(header.names);
        } else if (!lines.next(fields)) {
            throw DataError(fmt::format("{}: the file has no line", path));
        }
        if (columns_.names.empty())
            columns_ = columns_in(lines, names_of(fields), std::move(listed));
        else if (options_.header && names_of(fields) != columns_.names)
            lines.refuse("other columns than the files before it have");
        if (!options_.header) errors_.attempt("row", [&] { add(lines, fields, table); });
        for (bool more = true; more;)
            errors_.attempt("row", [&] {
                while ((more = lines.next(fields)))
                    add(lines, fields, table);
            });
    }

    // A field of TSV is as it stands there.
    std::string_view quotes() const {
        return options_.reader == "arff" ? "'\"" : options_.delimiter[0] == '\t' ? "" : "\"";
    }

    std::vector<std::string> names_of(const std::vector<std::string>& fields) const {
        std::vector<std::string> names;
        for (std::size_t i = 0; i < fields.size(); ++i)
            names.push_back(options_.header ? std::string(trimmed(fields[i])) : fmt::format("{}", i + 1));
        return names;
    }

    static std::size_t column_named(const std::string& name, const Columns& columns, const TableLines& lines) {
        const auto found = std::ranges::find(columns.names, name);
        if (found == columns.names.end())
            lines.refuse(no_such_name("column", name, {columns.names.begin(), columns.names.end()}));
        return static_cast<std::size_t>(found - columns.names.begin());
    }

    Columns columns_in(const TableLines& lines, std::vector<std::string> names,
                       std::map<std::size_t, std::vector<std::string>> listed) const {
        Columns columns{.names = std::move(names), .categories = std::move(listed)};
        std::set<std::string_view> seen;
        for (const std::string& name : columns.names)
            if (!seen.insert(name).second) lines.refuse(fmt::format("two columns are named '{}'", name));
        for (const std::string& name : options_.category_columns)
            columns.categories.try_emplace(column_named(name, columns, lines));
        for (const std::string& name : options_.targets)
            columns.targets.push_back(column_named(name, columns, lines));
        std::vector<std::size_t> taken = columns.targets;
        if (!options_.label_column.empty())
            taken.push_back(*(columns.label = column_named(options_.label_column, columns, lines)));
        for (const DatasetOptions::ColumnGroup& input : options_.inputs)
            add_input(input, taken, lines, columns);
        for (std::size_t i = 0; i < columns.names.size() && options_.inputs.empty(); ++i)
            if (std::ranges::find(taken, i) == taken.end()) columns.features.push_back(i);
        if (columns.features.empty()) lines.refuse("no column is left to be a feature");
        const auto count = static_cast<std::int64_t>(columns.features.size());
        const bool numbers =
            std::ranges::none_of(columns.features, [&](std::size_t i) { return columns.categories.contains(i); });
        if (numbers && options_.features > 0 && options_.features != count)
            lines.refuse(fmt::format("{} columns are features, data.features says {}", count, options_.features));
        return columns;
    }

    // Columns whose names fit, in their order.
    static void add_input(const DatasetOptions::ColumnGroup& input, std::vector<std::size_t>& taken,
                          const TableLines& lines, Columns& columns) {
        const std::size_t before = columns.features.size();
        for (std::size_t i = 0; i < columns.names.size(); ++i) {
            const auto fits = [&](const std::string& pattern) {
                return fnmatch(pattern.c_str(), columns.names[i].c_str(), 0) == 0;
            };
            if (std::ranges::none_of(input.columns, fits)) continue;
            if (std::ranges::find(taken, i) != taken.end())
                throw ConfigError(fmt::format("{}: input '{}': the column '{}' is to be found, or of another input",
                                              input.where, input.name, columns.names[i]));
            taken.push_back(i);
            columns.features.push_back(i);
        }
        for (const std::string& pattern : input.columns)
            if (std::ranges::none_of(columns.names, [&](const std::string& name) {
                    return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
                }))
                lines.refuse(no_such_name("column", pattern, {columns.names.begin(), columns.names.end()}));
        columns.inputs.push_back(columns.features.size() - before);
    }

    void note_missing(std::size_t column) const {
        errors_.note(fmt::format("missing values of '{}'", columns_.names[column]));
    }

    float number_in(const TableLines& lines, const std::vector<std::string>& fields, std::size_t column) const {
        std::string_view text = trimmed(fields[column]);
        if (is_missing(text)) note_missing(column);
        if (options_.missing_mean && is_missing(text)) return missing;
        if (text.starts_with('+')) text.remove_prefix(1);
        float value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value))
            lines.refuse(fmt::format("column '{}' is '{}', expected a number", columns_.names[column], fields[column]));
        return value;
    }

    std::string word_in(const TableLines& lines, const std::vector<std::string>& fields, std::size_t column) const {
        const std::string word(trimmed(fields[column]));
        if (is_missing(word)) {
            note_missing(column);
            if (options_.missing_mean) return "";
            lines.refuse(
                fmt::format("column '{}' is missing; data.missing = \"mean\" takes such rows", columns_.names[column]));
        }
        const std::vector<std::string>& listed = columns_.categories.at(column);
        if (!listed.empty() && std::ranges::find(listed, word) == listed.end())
            lines.refuse(fmt::format("column '{}' is '{}', which is none of its {} categories", columns_.names[column],
                                     word, listed.size()));
        return word;
    }

    void check_label(const TableLines& lines, const std::string& label) const {
        if (is_missing(label)) {
            note_missing(*columns_.label);
            lines.refuse("what is to be found is missing");
        }
        const auto listed = columns_.categories.find(*columns_.label);
        if (listed == columns_.categories.end() || listed->second.empty()) return;
        if (std::ranges::find(listed->second, label) == listed->second.end())
            lines.refuse(fmt::format("the label '{}' is none of the {} that are listed", label, listed->second.size()));
    }

    void add(const TableLines& lines, const std::vector<std::string>& fields, Table& table) const {
        if (fields.size() != columns_.names.size()) {
            errors_.note(fields.size() < columns_.names.size() ? "rows with too few fields"
                                                               : "rows with too many fields");
            lines.refuse(fmt::format("{} fields, expected {}", fields.size(), columns_.names.size()));
        }
        std::vector<float> numbers, wanted; // all of a row, or nothing
        std::vector<std::string> words;
        for (const std::size_t column : columns_.features)
            if (columns_.categories.contains(column))
                words.push_back(word_in(lines, fields, column));
            else
                numbers.push_back(number_in(lines, fields, column));
        for (const std::size_t column : columns_.targets)
            wanted.push_back(number_in(lines, fields, column));
        if (std::ranges::any_of(wanted, [](float value) { return std::isnan(value); }))
            lines.refuse("what is to be found is missing");
        if (columns_.label) check_label(lines, std::string(trimmed(fields[*columns_.label])));
        for (std::size_t i = 0, next = 0; i < columns_.features.size(); ++i)
            if (columns_.categories.contains(columns_.features[i]))
                table.words[columns_.features[i]].push_back(std::move(words[next++]));
        auto& inputs = std::get<std::vector<float>>(table.arrays.inputs);
        inputs.insert(inputs.end(), numbers.begin(), numbers.end());
        auto* alone = std::get_if<std::vector<float>>(&table.arrays.targets);
        std::vector<float>& targets = alone != nullptr ? *alone : table.arrays.numbers;
        targets.insert(targets.end(), wanted.begin(), wanted.end());
        if (columns_.label) {
            table.labels.emplace_back(trimmed(fields[*columns_.label]));
            if (!table.first_seen.contains(table.labels.back()))
                table.first_seen.emplace(table.labels.back(), lines.place());
        }
        ++table.arrays.count;
    }

    const DatasetOptions& options_;
    RecordErrors& errors_;
    Columns columns_;
};

constexpr std::size_t most_categories = 1024; // of a feature: each is a number of every sample

// Categories of a feature that nobody has listed: those of the training data, in the order of their bytes.
void list_categories(const Table& train, const std::string& data, Columns& columns) {
    for (auto& [column, listed] : columns.categories) {
        const auto words = train.words.find(column);
        if (words == train.words.end()) continue; // it is the label's
        std::set<std::string> seen(words->second.begin(), words->second.end());
        seen.erase("");
        if (listed.empty()) listed.assign(seen.begin(), seen.end());
        if (listed.size() > most_categories)
            throw DataError(fmt::format("{}: column '{}' has {} categories, expected at most {}: each is a number of "
                                        "every sample",
                                        data, columns.names[column], listed.size(), most_categories));
    }
}

// "weight", and of a category a name for each number: "colour=red".
std::vector<std::string> feature_names(const Columns& columns) {
    std::vector<std::string> names;
    for (const std::size_t column : columns.features) {
        const auto categories = columns.categories.find(column);
        if (categories == columns.categories.end())
            names.push_back(columns.names[column]);
        else
            for (const std::string& category : categories->second)
                names.push_back(fmt::format("{}={}", columns.names[column], category));
    }
    return names;
}

// Features side by side in the order of the columns: a number as it is, a category as one number for each that there
// is, 1 or 0; a missing one is 0 everywhere, as one is that the training data do not have.
void lay_out(Table& table, const Columns& columns) {
    const std::vector<float> numbers = std::move(std::get<std::vector<float>>(table.arrays.inputs));
    std::vector<float> all;
    std::size_t next = 0;
    const auto samples = static_cast<std::size_t>(table.arrays.count);
    for (std::size_t sample = 0; sample < samples; ++sample)
        for (const std::size_t column : columns.features) {
            const auto words = table.words.find(column);
            if (words == table.words.end()) {
                all.push_back(numbers[next++]);
                continue;
            }
            for (const std::string& category : columns.categories.at(column))
                all.push_back(category == words->second[sample] ? 1.0f : 0.0f);
        }
    table.arrays.inputs = std::move(all);
}

// Missing numbers become the mean of those that the training data have.
void fill_missing(const std::vector<Table*>& tables, std::int64_t width) {
    const auto features = static_cast<std::size_t>(width);
    std::vector<double> sums(features), counts(features);
    const auto& train = std::get<std::vector<float>>(tables[0]->arrays.inputs);
    for (std::size_t i = 0; i < train.size(); ++i)
        if (!std::isnan(train[i])) {
            sums[i % features] += static_cast<double>(train[i]);
            counts[i % features] += 1;
        }
    for (Table* table : tables) {
        auto& values = std::get<std::vector<float>>(table->arrays.inputs);
        for (std::size_t i = 0; i < values.size(); ++i)
            if (std::isnan(values[i]))
                values[i] =
                    counts[i % features] > 0 ? static_cast<float>(sums[i % features] / counts[i % features]) : 0.0f;
    }
}

// The last samples, a share of them, for validation: what training knows of categories and means is not from there.
Table cut_off(Table& train, double fraction) {
    if (!(fraction >= 0 && fraction < 1))
        throw ConfigError(fmt::format("validation_fraction is {}, expected from 0 to less than 1", fraction));
    const auto count = static_cast<double>(train.arrays.count);
    const auto kept = static_cast<std::size_t>(std::floor((1 - fraction) * count));
    const std::size_t rest = static_cast<std::size_t>(train.arrays.count) - kept;
    Table cut;
    const auto part = [&](auto& values) {
        const std::size_t begin = values.size() / std::max<std::size_t>(kept + rest, 1) * kept;
        std::remove_reference_t<decltype(values)> last(
            std::make_move_iterator(values.begin() + static_cast<std::ptrdiff_t>(begin)),
            std::make_move_iterator(values.end()));
        values.resize(begin);
        return last;
    };
    std::visit([&](auto& values) { cut.arrays.inputs = part(values); }, train.arrays.inputs);
    std::visit([&](auto& values) { cut.arrays.targets = part(values); }, train.arrays.targets);
    cut.arrays.numbers = part(train.arrays.numbers);
    cut.labels = train.labels.empty() ? cut.labels : part(train.labels);
    for (auto& [column, words] : train.words)
        cut.words[column] = part(words);
    cut.first_seen = train.first_seen;
    cut.arrays.count = static_cast<std::int64_t>(rest);
    train.arrays.count = static_cast<std::int64_t>(kept);
    return cut;
}

std::vector<double> means_of(const std::vector<float>& rows, std::size_t columns) {
    std::vector<double> means(columns);
    for (std::size_t i = 0; i < rows.size(); ++i)
        means[i % columns] += static_cast<double>(rows[i]) / static_cast<double>(rows.size() / columns);
    return means;
}

// Samples [0, count) for which keep[sample] holds.
template <class T> void keep_only(std::vector<T>& values, const std::vector<bool>& keep) {
    const std::size_t each = values.size() / std::max<std::size_t>(keep.size(), 1);
    std::size_t to = 0;
    for (std::size_t i = 0; i < values.size(); ++i)
        if (keep[i / each]) {
            if (to != i) values[to] = std::move(values[i]);
            ++to;
        }
    values.resize(to);
}

// Those whose label is none of the training data's, where errors are skipped; else the refusal.
void leave_out_labels(Table& table, const std::map<std::string, std::int32_t>& numbers, RecordErrors& errors) {
    std::vector<bool> keep;
    for (const std::string& label : table.labels)
        keep.push_back(errors.attempt("row", [&] {
            if (!numbers.contains(label))
                throw DataError(fmt::format("{}: the label '{}' is none of the {} classes of the training data",
                                            table.first_seen.at(label), label, numbers.size()));
        }));
    if (std::ranges::find(keep, false) == keep.end()) return;
    std::visit([&](auto& values) { keep_only(values, keep); }, table.arrays.inputs);
    keep_only(table.arrays.numbers, keep);
    keep_only(table.labels, keep);
    table.arrays.count = std::ranges::count(keep, true);
}

// Files to evaluate on are not replaced by a part of what is trained on.
void expect_rows(const DatasetOptions& options, const Table& validation) {
    if (!options.validation_files.empty() && validation.arrays.count == 0)
        throw DataError(fmt::format("{}: no row is left to evaluate on", options.validation_files[0]));
}

// Numbers for labels, by the categories of the training part.
void number_labels(Table& table, const std::map<std::string, std::int32_t>& numbers) {
    auto& targets = std::get<std::vector<std::int32_t>>(table.arrays.targets);
    for (const std::string& label : table.labels)
        targets.push_back(numbers.at(label));
}

// The number of each label, with what the form says of them: as they are listed, or in the order of their bytes.
std::map<std::string, std::int32_t> numbers_of_labels(const Table& train, const Columns& columns, SampleForm& form) {
    std::map<std::string, std::int32_t> numbers;
    if (const auto listed = columns.categories.find(*columns.label); listed != columns.categories.end())
        for (const std::string& label : listed->second)
            numbers.emplace(label, static_cast<std::int32_t>(numbers.size()));
    if (numbers.empty())
        for (const auto& [label, place] : train.first_seen)
            numbers.emplace(label, static_cast<std::int32_t>(numbers.size()));
    form.classes = static_cast<std::int64_t>(numbers.size());
    form.class_names.resize(numbers.size());
    for (const auto& [label, number] : numbers)
        form.class_names[static_cast<std::size_t>(number)] = label;
    return numbers;
}

// Numbers to be found, beside a label or alone.
void add_numbers(const Table& train, const Columns& columns, SampleForm& form) {
    const auto* alone = std::get_if<std::vector<float>>(&train.arrays.targets);
    std::vector<double> means = means_of(alone != nullptr ? *alone : train.arrays.numbers, columns.targets.size());
    if (columns.label) {
        form.wanted.resize(form.fields.size());
        form.wanted.back().classes = form.classes;
        form.wanted.push_back({0, means});
        form.classes = 0;
    }
    form.target_means = std::move(means);
    form.fields.push_back({"targets", {static_cast<std::int64_t>(columns.targets.size())}, DType::f32});
}

// Side by side in a row, in the order of the columns of each.
std::vector<Field> input_fields(const DatasetOptions& options, const Columns& columns) {
    const auto width = [&](std::size_t begin, std::size_t end) {
        std::int64_t numbers = 0;
        for (; begin < end; ++begin) {
            const auto categories = columns.categories.find(columns.features[begin]);
            numbers += categories == columns.categories.end() ? 1 : std::ssize(categories->second);
        }
        return numbers;
    };
    if (columns.inputs.empty()) return {{"features", {width(0, columns.features.size())}, DType::f32}};
    std::vector<Field> fields;
    std::size_t begin = 0;
    for (std::size_t i = 0; i < columns.inputs.size(); begin += columns.inputs[i++])
        fields.push_back({options.inputs[i].name, {width(begin, begin + columns.inputs[i])}, DType::f32});
    return fields;
}

} // namespace

std::unique_ptr<Dataset> read_table(const DatasetOptions& options) {
    if (options.files.empty())
        throw ConfigError(fmt::format("the reader '{}' needs files, none are given", options.reader));
    RecordErrors errors(options.skip_errors);
    TableReader reader(options, errors);
    Table train = reader.read(options.files), validation = reader.read(options.validation_files);
    Columns columns = reader.columns();
    if (columns.names.empty()) throw DataError(fmt::format("{}: no file is left to train on", options.files[0]));
    expect_rows(options, validation);
    if (options.validation_files.empty()) validation = cut_off(train, options.validation_fraction);
    list_categories(train, options.files[0], columns);
    lay_out(train, columns);
    lay_out(validation, columns);
    std::vector<std::string> names = feature_names(columns);
    const auto width = static_cast<std::int64_t>(names.size());
    if (options.features > 0 && options.features != width)
        throw DataError(
            fmt::format("{}: {} features, data.features says {}", options.files[0], width, options.features));
    fill_missing({&train, &validation}, width);
    SampleForm form{input_fields(options, columns)};
    form.feature_names = std::move(names);
    if (columns.label) {
        const auto numbers = numbers_of_labels(train, columns, form);
        if (options.classes > 0 && form.classes > options.classes)
            throw ConfigError(fmt::format("{}: column '{}' has {} labels, data.classes says {}", options.files[0],
                                          options.label_column, form.classes, options.classes));
        form.classes = std::max(form.classes, options.classes);
        leave_out_labels(validation, numbers, errors);
        expect_rows(options, validation);
        number_labels(train, numbers);
        number_labels(validation, numbers);
        form.fields.push_back({"label", {}, DType::i32});
    }
    if (!columns.targets.empty()) add_numbers(train, columns, form);
    return std::make_unique<ArraySamples>(std::move(form), options.files[0], std::move(train.arrays),
                                          std::move(validation.arrays), options.validation_fraction, errors.skipped(),
                                          options.statistics, errors.findings());
}

} // namespace tessera
