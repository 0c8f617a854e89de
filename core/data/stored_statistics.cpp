// SPDX-License-Identifier: Apache-2.0
#include "core/data/stored_statistics.hpp"

#include "core/data/content_hash.hpp"
#include "core/data/data_error.hpp"
#include "core/data/mapped_file.hpp"
#include "core/data/readers.hpp"
#include "core/json.hpp"
#include "core/json_value.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fmt/format.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;

bool is_table(const DatasetOptions& options) {
    return options.reader == "csv" || options.reader == "tsv" || options.reader == "arff";
}

// Paths, each with the name by which it is known wherever the data lie.
std::vector<std::pair<std::string, std::string>> files_of(const DatasetOptions& options) {
    std::vector<std::pair<std::string, std::string>> found;
    for (const std::string& path : matching_paths(options.files)) {
        if (options.reader != "image_folder") {
            found.emplace_back(path, fs::path(path).filename().string());
            continue;
        }
        for (const std::string& file : files_below(path))
            found.emplace_back(file, fs::path(file).lexically_relative(path).string());
    }
    return found;
}

std::string hashed_file(const std::string& path) {
    std::error_code ignored;
    if (fs::file_size(path, ignored) == 0) return std::string(32, '0');
    const MappedFile file(path);
    ContentHash hash;
    hash.add(file.bytes().data(), file.bytes().size());
    return hash.text();
}

std::string joined(const std::vector<std::string>& words) { return fmt::format("{}", fmt::join(words, ", ")); }

// The tree of a file, with a sentence for what it lacks.
class Opened {
public:
    explicit Opened(const std::string& path) : path_(path), root_(read(path)) {}

    const JsonValue& member(const JsonValue& of, std::string_view name, JsonValue::Kind kind) const {
        const JsonValue* found = of.find(name);
        if (found == nullptr || !found->is(kind)) refuse(fmt::format("it has no '{}'", name));
        return *found;
    }
    const JsonValue& member(std::string_view name, JsonValue::Kind kind) const { return member(root_, name, kind); }

    std::int64_t count(const JsonValue& of, std::string_view name) const {
        const double number = member(of, name, JsonValue::Kind::number).number;
        if (!(number >= 0 && number < 9e15)) refuse(fmt::format("'{}' is no count", name));
        return static_cast<std::int64_t>(number);
    }

    std::vector<double> numbers(std::string_view name, double least) const {
        std::vector<double> found;
        for (const JsonValue& value : member(name, JsonValue::Kind::array).items) {
            if (!value.is(JsonValue::Kind::number) || !std::isfinite(value.number) || value.number < least)
                refuse(fmt::format("'{}' holds what cannot stand there", name));
            found.push_back(value.number);
        }
        return found;
    }

    [[noreturn]] void refuse(const std::string& why) const {
        throw DataError(fmt::format("{}: no statistics of `tessera data prepare`: {}", path_, why));
    }

private:
    static JsonValue read(const std::string& path) {
        if (std::error_code error; !fs::exists(path, error))
            throw DataError(fmt::format("{}: there is no such file; `tessera data prepare CONFIG` makes it", path));
        try {
            return parse_json(MappedFile(path).text(), path);
        } catch (const DataError&) {
            throw;
        } catch (const ConfigError& error) {
            throw DataError(error.what());
        }
    }

    std::string path_;
    JsonValue root_;
};

std::string text_of_files(const SourceFiles& files) {
    return fmt::format("{} {} of {} bytes", files.files, files.files == 1 ? "file" : "files", files.bytes);
}

} // namespace

SourceFiles look_at_files(const DatasetOptions& options, bool content, const Workers& workers) {
    const auto files = files_of(options);
    SourceFiles found{.files = std::ssize(files)};
    ContentHash names;
    for (const auto& [path, name] : files) {
        std::error_code error;
        const auto bytes = static_cast<std::int64_t>(fs::file_size(path, error));
        if (error) throw DataError(fmt::format("{}: {}", path, error.message()));
        found.bytes += bytes;
        names.add(name.data(), name.size() + 1);
        names.add(bytes);
    }
    found.names = names.text();
    if (!content) return found;
    std::string own;
    const auto [begin, end] = workers.share_of(files.size());
    for (std::size_t i = begin; i < end; ++i)
        own += hashed_file(files[i].first);
    ContentHash all;
    for (const std::string& hashes : workers.gather(own))
        all.add(hashes.data(), hashes.size());
    found.content = all.text();
    return found;
}

std::vector<std::pair<std::string, std::string>> made_with(const DatasetOptions& options) {
    std::vector<std::pair<std::string, std::string>> keys = {{"data.reader", options.reader}};
    if (options.reader == "image_folder" || options.reader == "hdf5")
        keys.emplace_back("data.image_shape", fmt::format("{}", fmt::join(options.image_shape, ", ")));
    if (options.reader == "hdf5")
        keys.emplace_back("data.input_field",
                          options.input_fields.empty() ? options.input_field : options.input_fields[0]);
    if (is_table(options)) {
        keys.emplace_back("data.delimiter", options.delimiter);
        keys.emplace_back("data.header", options.header ? "true" : "false");
        keys.emplace_back("data.label_column", options.label_column);
        keys.emplace_back("data.target_columns", joined(options.targets));
        keys.emplace_back("data.category_columns", joined(options.category_columns));
        keys.emplace_back("data.missing", options.missing_mean ? "mean" : "stop");
        for (const DatasetOptions::ColumnGroup& input : options.inputs)
            keys.emplace_back("data.inputs." + input.name, joined(input.columns));
    }
    const bool fields = !options.validation_input_field.empty() || !options.validation_input_fields.empty() ||
                        !options.validation_target_fields.empty();
    if (options.validation_files.empty() && !fields)
        keys.emplace_back("data.validation_fraction", fmt::format("{}", options.validation_fraction));
    return keys;
}

std::string statistics_text(const StoredStatistics& stored) {
    const auto object = [](const auto& members, const auto& text_of) {
        std::string text;
        for (const auto& member : members)
            text += (text.empty() ? "" : ",") + std::string("\n    ") + text_of(member);
        return "{" + text + "\n  }";
    };
    const auto quoted = [](const std::vector<std::string>& names) {
        std::vector<std::string> all;
        for (const std::string& name : names)
            all.push_back(json_string(name));
        return fmt::format("{}", fmt::join(all, ", "));
    };
    std::string text = "{\n  \"format\": 1,\n  \"made_with\": ";
    text += object(stored.made_with,
                   [](const auto& key) { return json_string(key.first) + ": " + json_string(key.second); });
    text += fmt::format(",\n  \"sources\": {{\"files\": {}, \"bytes\": {}, \"names\": \"{}\", \"content\": \"{}\"}}",
                        stored.sources.files, stored.sources.bytes, stored.sources.names, stored.sources.content);
    text +=
        fmt::format(",\n  \"samples\": {{\"training\": {}, \"validation\": {}}}", stored.training, stored.validation);
    text += ",\n  \"counts\": " + object(stored.counts, [](const DataFinding& finding) {
                return fmt::format("{}: {}", json_string(finding.what), finding.count);
            });
    text += fmt::format(",\n  \"names\": [{}],\n  \"mean\": [{}],\n  \"deviation\": [{}]\n}}\n", quoted(stored.names),
                        fmt::join(stored.statistics.means, ", "), fmt::join(stored.statistics.deviations, ", "));
    return text;
}

StoredStatistics read_statistics(const std::string& path) {
    using Kind = JsonValue::Kind;
    const Opened file(path);
    if (file.member("format", Kind::number).number != 1) file.refuse("'format' is not 1");
    StoredStatistics stored;
    const JsonValue& keys = file.member("made_with", Kind::object);
    for (std::size_t i = 0; i < keys.names.size(); ++i)
        stored.made_with.emplace_back(keys.names[i], keys.items[i].text);
    const JsonValue &sources = file.member("sources", Kind::object), &samples = file.member("samples", Kind::object);
    stored.sources = {file.count(sources, "files"), file.count(sources, "bytes"),
                      file.member(sources, "names", Kind::text).text, file.member(sources, "content", Kind::text).text};
    stored.training = file.count(samples, "training");
    stored.validation = file.count(samples, "validation");
    const JsonValue& counts = file.member("counts", Kind::object);
    for (const std::string& name : counts.names)
        stored.counts.push_back({name, file.count(counts, name)});
    for (const JsonValue& name : file.member("names", Kind::array).items)
        stored.names.push_back(name.text);
    stored.statistics = {file.numbers("mean", -INFINITY), file.numbers("deviation", 0)};
    if (stored.statistics.means.empty() || stored.statistics.means.size() != stored.statistics.deviations.size())
        file.refuse("'mean' and 'deviation' are not as long as each other");
    return stored;
}

StoredStatistics stored_statistics(const DatasetOptions& options, bool thorough) {
    StoredStatistics stored = read_statistics(options.statistics_file);
    const auto stale = [&](const std::string& why) {
        throw DataError(
            fmt::format("{}: {}; make it anew by `tessera data prepare CONFIG`", options.statistics_file, why));
    };
    for (const auto& [key, value] : made_with(options)) {
        const auto then = std::ranges::find(stored.made_with, key, &std::pair<std::string, std::string>::first);
        if (then == stored.made_with.end()) stale(fmt::format("these statistics were found without {}", key));
        if (then->second != value)
            stale(fmt::format("these statistics were found with {} = \"{}\", and now it is \"{}\"", key, then->second,
                              value));
    }
    const bool loaded = is_table(options) || options.reader == "idx";
    const SourceFiles now = look_at_files(options, thorough || loaded);
    if (now.files != stored.sources.files || now.bytes != stored.sources.bytes)
        stale(fmt::format("these statistics are of {}, and there are {} now", text_of_files(stored.sources),
                          text_of_files(now)));
    if (!loaded && now.names != stored.sources.names) stale("these statistics are of files of other names or sizes");
    if (!now.content.empty() && now.content != stored.sources.content)
        stale("the content of the files has changed since these statistics were found");
    return stored;
}

} // namespace tessera
