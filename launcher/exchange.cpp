// SPDX-License-Identifier: Apache-2.0
// Export and import: which format, which config.
#include "launcher/exchange.hpp"

#include "core/checkpoint/whole_hdf5.hpp"
#include "core/config_catalog.hpp"
#include "core/formats/import.hpp"
#include "core/formats/llmc.hpp"
#include "core/formats/new_file.hpp"
#include "core/formats/safetensors.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"
#include "launcher/setup.hpp"

#include <filesystem>
#include <fmt/format.h>

namespace tessera {
namespace {

// The one of the three formats that was asked for.
std::string format_of(const Arguments& arguments) {
    std::string format;
    for (const char* name : {"safetensors", "hdf5-single", "llmc"}) {
        if (!arguments.has(name)) continue;
        if (!format.empty())
            throw ConfigError(fmt::format("checkpoint export: --{} or --{}, one at a time", format, name));
        format = name;
    }
    if (format.empty()) throw ConfigError("checkpoint export: say --safetensors, --hdf5-single or --llmc, and a file");
    return format;
}

std::optional<DType> narrow_dtype(const Arguments& arguments) {
    const std::string said = arguments.text("dtype").value_or("f32");
    if (said == "f32") return std::nullopt;
    if (said == "bf16") return DType::bf16;
    throw ConfigError(fmt::format("--dtype: {}", no_such_name("dtype", said, {"bf16", "f32"})));
}

Config config_for_import(const Arguments& arguments, const WeightFile& file,
                         const std::vector<std::string>& overrides) {
    if (const std::optional<std::string> path = arguments.text("config"))
        return Config::load(*path, overrides, known_keys());
    const auto kept = file.metadata().find("config");
    if (kept == file.metadata().end())
        throw ConfigError(fmt::format("{} does not say how its model is built: say --config CONFIG", file.path()));
    return Config::parse(kept->second, file.path() + ":config", overrides, known_keys());
}

} // namespace

std::string checkpoints_below(const Arguments& arguments) {
    const std::optional<std::string> run = arguments.text("to");
    if (!run || run->empty())
        throw ConfigError(fmt::format("checkpoint {}: say --to RUN, the folder to put it into", arguments.words()[0]));
    return (std::filesystem::path(*run) / "checkpoints").string();
}

int export_checkpoint(const Arguments& arguments) {
    const std::vector<std::string>& words = arguments.words();
    if (words.size() != 2) throw ConfigError("checkpoint export: expected one checkpoint or run");
    const std::string format = format_of(arguments), path = *arguments.text(format);
    const std::optional<DType> narrow = narrow_dtype(arguments);
    const bool states = arguments.has("states");
    const Checkpoint checkpoint = open_checkpoint(words[1]);
    if (format == "safetensors") {
        write_safetensors(checkpoint, path, states, narrow);
    } else if (format == "hdf5-single") {
        if (narrow) throw ConfigError("--dtype is for --safetensors and --llmc");
        NewFile file(path);
        write_whole_hdf5(checkpoint, file.file(), states);
        file.finish();
    } else {
        if (states) throw ConfigError("--states: a model file of llm.c holds none");
        write_llmc(checkpoint, config_of(checkpoint, {}), path, narrow);
    }
    fmt::print("{}: {} of step {}\n", path, states ? "weights and optimizer states" : "weights", checkpoint.step());
    return 0;
}

int import_checkpoint(const Arguments& arguments) {
    const std::vector<std::string>& words = arguments.words();
    if (words.size() < 2) throw ConfigError("checkpoint import: expected a safetensors or llm.c file");
    const std::string folder = checkpoints_below(arguments);
    const WeightFile file = open_weight_file(words[1]);
    const Config config = config_for_import(arguments, file, {words.begin() + 2, words.end()});
    const Imported done = import_weights(file, config, folder);
    fmt::print("{}: step {}, {} optimizer states\n", done.folder, done.step, done.with_states ? "the file's" : "fresh");
    return 0;
}

} // namespace tessera
