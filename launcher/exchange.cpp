// SPDX-License-Identifier: Apache-2.0
// Export and import: which format, which config.
#include "launcher/exchange.hpp"

#include "core/checkpoint/whole_hdf5.hpp"
#include "core/data/options.hpp"
#include "core/encoder_model.hpp"
#include "core/formats/hugging_face/folder.hpp"
#include "core/formats/import.hpp"
#include "core/formats/llmc.hpp"
#include "core/formats/merge_adapters.hpp"
#include "core/formats/new_file.hpp"
#include "core/formats/onnx/export.hpp"
#include "core/formats/safetensors.hpp"
#include "core/formats/take_averages.hpp"
#include "core/layers/lora.hpp"
#include "core/run/text_file.hpp"
#include "core/visible.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"
#include "launcher/setup.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <functional>
#include <memory>

namespace tessera {
namespace {

// The one of the formats that was asked for.
std::string format_of(const Arguments& arguments) {
    std::string format;
    for (const char* name : {"safetensors", "hdf5-single", "hugging-face", "llmc", "onnx"}) {
        if (!arguments.has(name)) continue;
        if (!format.empty())
            throw ConfigError(fmt::format("checkpoint export: --{} or --{}, one at a time", format, name));
        format = name;
    }
    if (format.empty())
        throw ConfigError(
            "checkpoint export: say --safetensors, --hdf5-single, --hugging-face, --llmc or --onnx, and a "
            "path");
    return format;
}

std::optional<DType> narrow_dtype(const Arguments& arguments) {
    const std::string said = arguments.text("dtype").value_or("f32");
    if (said == "f32") return std::nullopt;
    if (said == "bf16") return DType::bf16;
    throw ConfigError(fmt::format("--dtype: {}", no_such_name("dtype", said, {"bf16", "f32"})));
}

// A checkpoint in a new folder beside what is made of it, and removed with it.
class Made {
public:
    // make(folder for it) makes it, and returns its own.
    Made(std::filesystem::path path, std::string_view what,
         const std::function<std::string(const std::string&)>& make) {
        if (!path.has_filename()) path = path.parent_path(); // "out/"
        std::string name = fmt::format("{}.{}-XXXXXX", path.string(), what);
        if (::mkdtemp(name.data()) == nullptr)
            throw SystemError(fmt::format("cannot make {}: {}", name, std::strerror(errno)));
        folder_ = std::shared_ptr<const std::string>(new std::string(name), [](const std::string* made) {
            std::error_code ignored; // what was to be written is
            std::filesystem::remove_all(*made, ignored);
            delete made;
        });
        checkpoint_ = make(name + "/checkpoints");
    }
    Checkpoint checkpoint() const { return Checkpoint(checkpoint_); }

private:
    std::shared_ptr<const std::string> folder_; // goes where the constructor throws, too
    std::string checkpoint_;
};

// What the model knows of its samples: the config and the checkpoint say it, or the data must.
SampleForm form_of_samples(const Checkpoint& checkpoint, const Config& config) {
    const std::string reader = reader_of(config);
    if (reader == "labelled" && config.get(data_files).empty()) { // of a folder of Hugging Face's
        const auto mark = [&](const Key<std::int64_t>& key) { return static_cast<std::int32_t>(config.get(key)); };
        const auto table = std::ranges::find(checkpoint.tensors(), "embedding.weight", &SavedTensor::name);
        return labelled_form(config.get(training_sequence), config.get(data_classes),
                             {mark(model_class_token), mark(model_separator_token), mark(model_padding_token),
                              table == checkpoint.tensors().end() ? 0 : table->whole[0]});
    }
    if (reads_text(config) && reader != "pairs" && reader != "labelled")
        return text_form(config.get(training_sequence),
                         parse_integer("data.vocabulary", metadata_of(checkpoint, "data.vocabulary"), 1, INT32_MAX));
    if (auto form = form_without_data(config, 1)) return *form;
    return open_data(config, metadata_of(checkpoint, "tokenizer"))->form();
}

// TOML of a model, whose [data] is the first section, with the path of its tokenizer.
std::string with_tokenizer(std::string toml, const std::string& path) {
    constexpr std::string_view section = "[data]\n";
    const std::size_t at = toml.find(section);
    if (path.empty() || at == std::string::npos) return toml;
    return toml.insert(at + section.size(), fmt::format("tokenizer_file = {}\n", toml_text(ConfigValue(path))));
}

void export_onnx(const Checkpoint& checkpoint, const Config& config, const std::string& path, std::int64_t megabytes) {
    const WrittenOnnx written =
        write_onnx(checkpoint, config, form_of_samples(checkpoint, config), path, megabytes * 1'000'000);
    fmt::print("ONNX, opset 17, {} nodes: {} -> {}\n", written.nodes, fmt::join(written.inputs, ", "),
               fmt::join(written.outputs, ", "));
    if (written.beside) fmt::print("{}.data holds the weights: the two files belong together\n", path);
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
    const std::string format = words.size() < 2 ? std::string() : format_of(arguments);
    if (words.size() < 2 || (words.size() > 2 && format != "onnx"))
        throw ConfigError("checkpoint export: expected one checkpoint or run");
    const std::string path = *arguments.text(format);
    const std::vector<std::string> overrides{words.begin() + 2, words.end()}; // of where the data lie, for --onnx
    const std::optional<DType> narrow = narrow_dtype(arguments);
    const bool states = arguments.has("states");
    Checkpoint checkpoint = open_checkpoint(words[1]);
    std::optional<Made> averaged, merged;
    if (arguments.has("ema")) {
        if (states) throw ConfigError("--states: averages of weights have none");
        averaged.emplace(path, "averaged", [&](const std::string& to) { return take_averages(checkpoint, to); });
        checkpoint = averaged->checkpoint();
    }
    if (config_of(checkpoint, {}).get(lora_rank) > 0) {
        if (states) throw ConfigError("--states: adapters are merged into weights, which have none");
        merged.emplace(path, "merged", [&](const std::string& to) {
            return merge_adapters(checkpoint, config_of(checkpoint, {}), to);
        });
        checkpoint = merged->checkpoint();
        fmt::print("adapters are merged into the weights\n");
    }
    if (format == "safetensors") {
        write_safetensors(checkpoint, path, states, narrow);
    } else if (format == "hdf5-single") {
        if (narrow) throw ConfigError("--dtype is for --safetensors, --hugging-face and --llmc");
        NewFile file(path);
        write_whole_hdf5(checkpoint, file.file(), states);
        file.finish();
    } else if (format == "hugging-face") {
        if (states) throw ConfigError("--states: a folder of Hugging Face's holds none");
        const std::int64_t most = arguments.integer("file-mb", 1, 1 << 30).value_or(5000);
        const HubWritten written = write_hub_folder(checkpoint, config_of(checkpoint, {}), path,
                                                    {.narrow = narrow, .most_bytes = most * 1'000'000});
        if (written.files > 1) fmt::print("{} files of weights\n", written.files);
        if (!written.no_tokenizer.empty()) fmt::print("without a tokenizer: {}\n", written.no_tokenizer);
    } else if (format == "onnx") {
        if (states || narrow) throw ConfigError("--states and --dtype are not for --onnx: it holds weights in f32");
        export_onnx(checkpoint, config_of(checkpoint, overrides), path,
                    arguments.integer("file-mb", 1, 2000).value_or(2000));
    } else {
        if (states) throw ConfigError("--states: a model file of llm.c holds none");
        write_llmc(checkpoint, config_of(checkpoint, {}), path, narrow);
    }
    fmt::print("{}: {} of step {}\n", path,
               states     ? "weights and optimizer states"
               : averaged ? "averaged weights"
                          : "weights",
               checkpoint.step());
    return 0;
}

int import_checkpoint(const Arguments& arguments) {
    const std::vector<std::string>& words = arguments.words();
    if (words.size() < 2)
        throw ConfigError("checkpoint import: expected a safetensors or llm.c file, or a folder of Hugging Face's");
    const std::string folder = checkpoints_below(arguments);
    const FoundWeights found =
        find_weights(words[1], arguments.text("config").value_or(""), {words.begin() + 2, words.end()});
    const Imported done = import_weights(*found.source, found.config, folder, found.tokenizer);
    fmt::print("{}: step {}, {} optimizer states\n", done.folder, done.step, done.with_states ? "the file's" : "fresh");
    if (!found.fitting.empty()) {
        const std::filesystem::path run = *arguments.text("to");
        const std::string path = (run / "model.toml").string(), tokenizer = (run / "tokenizer.json").string();
        replace_file(
            path, fmt::format("# The model of {}. A config that opens with base = \"{}\" goes on from here.\n{}",
                              words[1], path, with_tokenizer(found.fitting, found.tokenizer.empty() ? "" : tokenizer)));
        fmt::print("{}: its model, for configs to be based on\n", path);
        if (!found.tokenizer.empty()) {
            replace_file(tokenizer, found.tokenizer);
            fmt::print("{}: its tokenizer, which they read text with\n", tokenizer);
        } else if (!found.no_tokenizer.empty()) {
            fmt::print("its tokenizer is not read: {}\n", visible(found.no_tokenizer));
        }
    }
    return 0;
}

} // namespace tessera
