// SPDX-License-Identifier: Apache-2.0
// `tessera data`: prepares a corpus, and looks into data as a run would read them.
#include "core/config_catalog.hpp"
#include "core/data/options.hpp"
#include "core/data/prepare.hpp"
#include "core/data/stored_statistics.hpp"
#include "core/data/utf8.hpp"
#include "core/exit_codes.hpp"
#include "core/formats/hugging_face/tokenizer_source.hpp"
#include "core/run/text_file.hpp"
#include "core/visible.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"
#include "launcher/setup.hpp"

#include <cstdlib>
#include <filesystem>
#include <fmt/format.h>

namespace tessera {
namespace {

std::vector<std::string> gather_all(const World& world, const std::string& own) {
    std::vector<std::string> all(static_cast<std::size_t>(world.size()));
    for (int rank = 0; rank < world.size(); ++rank) {
        std::string& from = all[static_cast<std::size_t>(rank)];
        if (rank == world.rank()) from = own;
        auto bytes = static_cast<std::int64_t>(from.size());
        world.group().broadcast(&bytes, sizeof bytes, rank);
        from.resize(static_cast<std::size_t>(bytes));
        world.group().broadcast(from.data(), bytes, rank);
    }
    return all;
}

double share_in(const Arguments& arguments, const std::string& option) {
    const std::string text = arguments.text(option).value_or("0");
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || !(value >= 0 && value <= 1))
        throw ConfigError(fmt::format("--{} {}: expected a number from 0 to 1", option, text));
    return value;
}

Config config_in(const Arguments& arguments) {
    const std::vector<std::string>& words = arguments.words();
    return Config::load(words[1], {words.begin() + 2, words.end()}, known_keys());
}

// Of the section, or of each table [[data.sources]]: what a run would normalise.
std::vector<DatasetOptions> options_in(const Config& config) {
    DatasetOptions options = dataset_options(config, 1, 0, {});
    if (options.sources.empty()) return {std::move(options)};
    std::vector<DatasetOptions> all;
    for (SourceOptions& source : options.sources)
        all.push_back(std::move(source.data));
    return all;
}

void print_statistics(const InputStatistics& found, const std::vector<std::string>& names) {
    constexpr std::size_t most = 16;
    const std::size_t count = found.means.size();
    for (std::size_t i = 0; i < std::min(count, most); ++i)
        fmt::print("  {}mean {:.6g}, deviation {:.6g}\n",
                   i < names.size() ? visible(names[i]) + ": "
                   : count > 1      ? fmt::format("{}: ", i + 1)
                                    : "",
                   found.means[i], found.deviations[i]);
    if (count > most) fmt::print("  and {} more\n", count - most);
}

void print_counts(const StoredStatistics& stored) {
    fmt::print("training: {} samples; validation: {}\n", stored.training, stored.validation);
    for (const DataFinding& finding : stored.counts)
        fmt::print("{}: {}\n", visible(finding.what), finding.count);
}

int prepare_statistics(const Arguments& arguments, Process& process) {
    World& world = start_world(process);
    const Config config = config_in(arguments);
    const Workers workers{world.rank(), world.size(), [&](const std::string& own) { return gather_all(world, own); }};
    for (const DatasetOptions& options : options_in(config)) {
        if (reads_text(config))
            config.refuse(data_reader.name, "reads text, of which `data prepare --to FOLDER FILES` makes tokens");
        if (options.statistics_file.empty())
            config.refuse(data_statistics.name, "names no file, which data prepare would write");
        const FoundStatistics found = find_statistics(options, workers);
        if (world.rank() == 0) print_counts(found.stored);
        if (!found.broken.empty() && (!found.readable || !options.skip_errors))
            throw DataError(found.readable ? fmt::format("{}; data.on_error=skip leaves such records out", found.broken)
                                           : found.broken);
        if (world.rank() != 0) continue;
        replace_file(options.statistics_file, statistics_text(found.stored));
        print_statistics(found.stored.statistics, found.stored.names);
        fmt::print("{}: for data.statistics\n", options.statistics_file);
    }
    return exit_code::done;
}

int prepare(const Arguments& arguments, Process& process) {
    if (arguments.words().size() > 1 && arguments.words()[1].ends_with(".toml") && !arguments.text("to"))
        return prepare_statistics(arguments, process);
    World& world = start_world(process);
    PrepareOptions options;
    options.files.assign(arguments.words().begin() + 1, arguments.words().end());
    options.folder = arguments.text("to").value_or("");
    if (options.files.empty()) throw ConfigError("data prepare: expected files of text");
    if (options.folder.empty())
        throw ConfigError("data prepare: say --to FOLDER, which it makes, or name a config (.toml)");
    options.records = arguments.text("records").value_or("file");
    options.cleaning = {.least_characters = arguments.integer("min-characters", 0, std::int64_t{1} << 40).value_or(1),
                        .keep_duplicates = arguments.has("keep-duplicates"),
                        .near_duplicates = share_in(arguments, "near-duplicates")};
    options.tokenizer = {.kind = arguments.text("tokenizer").value_or("byte"),
                         .vocabulary_size = arguments.integer("vocab-size", 1, std::int64_t{1} << 30).value_or(0)};
    options.tokenizer_file = arguments.text("tokenizer-file").value_or("");
    options.end_token = arguments.text("end-token").value_or("");
    const Workers workers{world.rank(), world.size(), [&](const std::string& own) { return gather_all(world, own); }};
    const Prepared done = prepare_corpus(options, workers);
    if (world.rank() != 0) return exit_code::done;
    for (std::size_t i = 0; i < verdict_names.size(); ++i)
        fmt::print("records {}: {}\n", verdict_names[i], done.records[i]);
    fmt::print("{}: {} tokens, vocabulary {}\n", options.folder, done.tokens, done.vocabulary);
    fmt::print("train on it with data.reader=megatron 'data.files=[\"{0}/tokens.idx\"]' "
               "data.tokenizer_file={0}/tokenizer.json\n",
               options.folder);
    return exit_code::done;
}

std::string field_text(const Field& field) {
    return fmt::format("{} {} {}", field.name, field.shape.text(), name_of(field.dtype));
}

// Reads the samples of a part that are `spacing` apart; what the first holds, in `sample`.
std::int64_t read_all(const Dataset& dataset, Split split, const SourcePart& part, std::int64_t most,
                      std::string& sample) {
    std::vector<Buffer> buffers;
    std::vector<View> views;
    for (const Field& field : dataset.form().fields) {
        buffers.emplace_back(field.shape.count() * bytes_of(field.dtype));
        views.push_back({buffers.back().data(), field.shape, field.dtype});
    }
    std::int64_t read = 0;
    for (std::int64_t i = 0; i < part.samples && read < most; i += part.spacing, ++read) {
        dataset.read(split, part.first + i, views);
        if (read > 0) continue;
        const auto shown = std::min<std::int64_t>(views[0].count(), 60);
        if (views[0].dtype == DType::i32 && dataset.tokenizer() != nullptr) {
            std::vector<std::int32_t> ids(views[0].as<std::int32_t>(), views[0].as<std::int32_t>() + shown);
            std::erase_if(ids, [&](std::int32_t id) { return id >= dataset.tokenizer()->vocabulary_size(); });
            sample = dataset.tokenizer()->decode(ids);
        } else {
            for (std::int64_t j = 0; j < shown; ++j)
                sample += views[0].dtype == DType::i32 ? fmt::format("{} ", views[0].as<std::int32_t>()[j])
                                                       : fmt::format("{:.4g} ", views[0].as<float>()[j]);
        }
    }
    return read;
}

void print_skipped(const Dataset& dataset) {
    for (const SkippedRecords& skipped : dataset.skipped())
        fmt::print("left out {}, the first: {}\n", counted(skipped.count, skipped.kind), visible(skipped.first));
}

// A window may begin and end within a character.
std::string readable(std::string_view text) {
    std::string result;
    for (std::size_t at = 0; at < text.size();) {
        const std::optional<CodePoint> found = read_code_point(text, at);
        result += found ? text.substr(at, found->bytes) : "\uFFFD";
        at += found ? found->bytes : 1;
    }
    return visible(result);
}

// Of each source, where there are several.
void look_at_part(const Dataset& dataset, Split split, bool everything) {
    std::vector<SourcePart> parts = dataset.sources(split);
    double weights = 0;
    for (const SourcePart& part : parts)
        weights += part.weight;
    const bool one = parts.empty();
    if (one) parts = {{.name = "", .samples = dataset.samples(split), .spacing = dataset.spacing()}};
    for (const SourcePart& part : parts) {
        std::string sample;
        const std::int64_t read = read_all(dataset, split, part, everything ? part.samples : 1, sample);
        const bool training = split == Split::train;
        fmt::print("{}{}: {} samples, of which {} were read{}\n", training ? "training" : "validation",
                   one ? "" : fmt::format(", source '{}'", visible(part.name)), part.samples, read,
                   one || !training ? "" : fmt::format("; {:.4g} % of a run's", 100 * part.weight / weights));
        if (!everything && training) fmt::print("the first begins: {}\n", readable(sample));
    }
}

// By what inputs are normalised; where it is stored, whether that is still so.
void look_at_statistics(const Config& config, const Dataset& dataset, bool everything) {
    if (dataset.statistics() != nullptr) {
        fmt::print("inputs are normalised by\n");
        std::vector<std::string> names = statistics_names(dataset.form());
        if (names.size() != dataset.statistics()->means.size()) names.clear();
        print_statistics(*dataset.statistics(), names);
    }
    for (const DatasetOptions& options : options_in(config)) {
        if (options.statistics_file.empty()) continue;
        const StoredStatistics stored = stored_statistics(options, everything);
        fmt::print("{}:\n", options.statistics_file);
        print_counts(stored);
        if (!everything) continue;
        if (find_statistics(options, {}).stored.statistics != stored.statistics)
            throw DataError(fmt::format("{}: the data have other statistics; make it anew by `tessera data prepare "
                                        "CONFIG`",
                                        options.statistics_file));
        fmt::print("{}: the statistics are those of the data\n", options.statistics_file);
    }
}

int look_at_config(const Arguments& arguments, bool everything) {
    Config config = config_in(arguments);
    settle_tokenizer(config);
    const std::unique_ptr<Dataset> dataset = open_data(config, {});
    const SampleForm& form = dataset->form();
    for (std::size_t i = 0; i < form.fields.size(); ++i)
        fmt::print("field {}{}\n", field_text(form.fields[i]),
                   form.wanted.empty() || form.classes_of(i) == 0 ? ""
                                                                  : fmt::format(", {} classes", form.classes_of(i)));
    if (form.wanted.empty()) fmt::print("{}: {}\n", form.is_text() ? "vocabulary" : "classes", form.classes);
    if (dataset->tokenizer() != nullptr) fmt::print("tokenizer: {}\n", dataset->tokenizer()->kind());
    for (const Split split : {Split::train, Split::validation})
        look_at_part(*dataset, split, everything);
    print_skipped(*dataset);
    if (!form.is_text()) look_at_statistics(config, *dataset, everything);
    fmt::print("fingerprint: {}\n", dataset->fingerprint());
    if (everything) fmt::print("every sample is readable\n");
    return exit_code::done;
}

int look(const Arguments& arguments, bool everything) {
    const std::vector<std::string>& words = arguments.words();
    if (words.size() < 2)
        throw ConfigError(fmt::format("data {}: expected a config, or a folder that data prepare made", words[0]));
    std::error_code ignored;
    if (!std::filesystem::is_directory(words[1], ignored)) return look_at_config(arguments, everything);
    if (everything) {
        fmt::print("{}: {} tokens, each within the vocabulary; all hashes are right\n", words[1],
                   check_prepared(words[1]));
    } else {
        const PreparedFolder found = inspect_prepared(words[1]);
        fmt::print("{}the first begins: {}\n", found.text, visible(found.sample));
    }
    return exit_code::done;
}

int run_data(const Arguments& arguments, Process& process) {
    const std::string& name = arguments.words()[0];
    if (name == "prepare") return prepare(arguments, process);
    if (name == "inspect") return look(arguments, false);
    if (name == "check") return look(arguments, true);
    throw ConfigError(no_such_name("data command", name, {"check", "inspect", "prepare"}));
}

} // namespace

Command data_command() {
    return {"data",
            "prepare a corpus; look into data and check them",
            {"data prepare|inspect|check [OPTION…] WHAT…",
             R"(prepare  CONFIG of images or tables: reads every sample, counts what cleaning
         finds, and writes mean and deviation of each channel or feature to the
         file data.statistics, which runs then normalise by. Or
         FILES of text are cut into records, cleaned and tokenised into --to
         FOLDER, with what was left out counted. Ranks of mpirun share the work;
         what is written has the same bytes for any number of them.
inspect  CONFIG [section.key=value …] or a prepared FOLDER: form, counts,
         vocabulary, and the first sample decoded
check    likewise, and reads every sample: exit code 3 and one sentence for a
         record that is not right, or a hash that is not the manifest's

Example
  mpirun -n 4 tessera data prepare images.toml data.statistics=images.json
  mpirun -n 4 tessera data prepare --to corpus/kjv --records line \
      --near-duplicates 0.8 --tokenizer-file gpt2/tokenizer.json corpus/*.txt
)",
             {{"to", "FOLDER", "prepare: the folder to make"},
              {"records", "KIND", "prepare: file, line, paragraph or jsonl (default: file)"},
              {"min-characters", "N", "prepare: shorter records are left out (default: 1)"},
              {"near-duplicates", "S", "prepare: leave out records that are alike by S of 1"},
              {"keep-duplicates", "", "prepare: keep records that were there before"},
              {"tokenizer", "KIND", "prepare: byte, character, bpe or wordpiece, trained on it"},
              {"vocab-size", "N", "prepare: tokens to train"},
              {"tokenizer-file", "FILE", "prepare: as data.tokenizer_file"},
              {"end-token", "TOKEN", "prepare: after each record (default: its tokenizer's)"}},
             1,
             100'000},
            run_data};
}

} // namespace tessera
