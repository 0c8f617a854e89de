// SPDX-License-Identifier: Apache-2.0
// What a model wants, found in a file, and saved.
#include "core/formats/import.hpp"

#include "core/checkpoint/manifest.hpp"
#include "core/checkpoint/streamed_save.hpp"
#include "core/config_catalog.hpp"
#include "core/data/data_error.hpp"
#include "core/data/options.hpp"
#include "core/data/tokenizer.hpp"
#include "core/encoder_model.hpp"
#include "core/formats/hugging_face/folder.hpp"
#include "core/formats/hugging_face/tokenizer_source.hpp"
#include "core/formats/llmc.hpp"
#include "core/formats/safetensors.hpp"
#include "core/model.hpp"
#include "core/optimizers/optimizer.hpp"
#include "core/optimizers/weight_average.hpp"
#include "core/run/experiment.hpp"
#include "core/run/validation_watch.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fmt/format.h>
#include <set>

namespace tessera {
namespace {

// What the model must know of its samples: of text the vocabulary is that of the token table.
SampleForm form_of(const WeightSource& source, const Config& config) {
    if (!reads_text(config)) {
        if (auto form = form_without_data(config, 1)) return *form;
        config.refuse(data_reader.name, "without the data the form of its samples is not known: say data.classes and "
                                        "data.image_shape or data.features");
    }
    const std::optional<std::int64_t> vocabulary = source.vocabulary();
    if (!vocabulary) throw ConfigError(fmt::format("{} has no token table 'embedding.weight'", source.path()));
    if (config.get(training_sequence) < 1) config.refuse(training_sequence.name, "must be at least 1");
    if (reader_of(config) == "labelled") {
        if (config.get(data_classes) < 1) config.refuse(data_classes.name, "say how many labels there are");
        const auto mark = [&](const Key<std::int64_t>& key) { return static_cast<std::int32_t>(config.get(key)); };
        return labelled_form(
            config.get(training_sequence), config.get(data_classes),
            {mark(model_class_token), mark(model_separator_token), mark(model_padding_token), *vocabulary});
    }
    return text_form(config.get(training_sequence), *vocabulary);
}

// Parameters and optimizer states of a training run; batch and ranks make no difference to them.
Graph graph_of(const Config& config, const SampleForm& form) {
    ModelSizes sizes;
    sizes.sample = form;
    if (config.get(training_dtype) == "f16") sizes.precision.compute = DType::f16; // it has a loss scale
    Model model = build_model(config, sizes, Purpose::train);
    const std::vector<ParameterSettings> settings = apply_parameter_groups(model.graph, config);
    const std::vector<ValueId> gradients = differentiate(model.graph, model.loss(), model.losses_beside);
    std::optional<Guard> guard = append_guard(model.graph, config, model.loss_scale.has_value());
    append_optimizer(model.graph, gradients, *make_optimizer(config),
                     {.loss_scale = model.loss_scale,
                      .guard = guard ? &*guard : nullptr,
                      .loss = model.loss(),
                      .counted = model.counted,
                      .settings = settings,
                      .ema_decay = ema_decay(config)});
    append_validation_state(model.graph, config);
    return std::move(model.graph);
}

std::vector<const Value*> values_of(const Graph& graph, ValueKind kind) {
    std::vector<const Value*> values;
    for (const ValueId id : graph.of_kind(kind))
        values.push_back(&graph.value(id));
    return values;
}

// The elements of `value` from the source, which must have them in this shape.
TensorSource source_in(const WeightSource& source, const Value& value) {
    const Shape shape = value.shape_outside();
    source.require(value.name, shape);
    return {{value.name, shape, value.type.dtype},
            [&source, shape, name = value.name](const TensorPiece& piece, const View& part) {
                source.read(name, shape, piece.box.start, part);
            }};
}

TensorSource fresh_state(const WeightSource& source, const Value& value) {
    if (is_weight_average(value.name)) { // starts as its weight
        const Shape shape = value.shape_outside();
        return {{value.name, shape, value.type.dtype},
                [&source, shape, weight = std::string(averaged_weight(value.name))](
                    const TensorPiece& piece, const View& part) { source.read(weight, shape, piece.box.start, part); }};
    }
    const float start = value.parameter ? 0.0f : value.start;
    return {{value.name, value.shape_outside(), value.type.dtype},
            [start](const TensorPiece&, const View& part) { std::fill_n(part.as<float>(), part.count(), start); }};
}

void refuse_unknown(const WeightSource& source, const std::vector<TensorSource>& sources) {
    std::set<std::string> known;
    for (const TensorSource& tensor : sources)
        known.insert(tensor.tensor.name);
    for (const std::string& name : source.beside(known))
        throw ConfigError(fmt::format("{}: {}", source.path(),
                                      no_such_name("tensor of the model", name, {known.begin(), known.end()})));
}

std::int64_t step_said(const WeightSource& source) {
    const auto found = source.metadata().find("step");
    std::int64_t step = -1;
    if (found == source.metadata().end()) return 0;
    const char *first = found->second.data(), *end = first + found->second.size();
    const auto [stop, error] = std::from_chars(first, end, step);
    if (error != std::errc() || stop != end || step < 0)
        throw ConfigError(fmt::format("{}: its metadata say step '{:.40}'", source.path(), found->second));
    return step;
}

// The config without what nobody has said of the data: a folder of weights knows no text, so any may follow; of images
// and labels it knows the form.
std::string without_data(const Config& config, const std::string& folder) {
    std::string text = config.resolved();
    for (const ConfigEntry& entry : config.entries()) {
        const bool of_folder = entry.where.starts_with(folder);
        const bool said = entry.where != "default" && (!of_folder || entry.name != data_vocabulary.name);
        const std::string line = fmt::format("\n{} = {}\n", entry.name.substr(entry.name.find('.') + 1), entry.value);
        const std::size_t section = text.find("\n[data]\n");
        if (said || !entry.name.starts_with("data.") || section == std::string::npos) continue;
        if (const std::size_t at = text.find(line, section); at != std::string::npos) text.erase(at, line.size() - 1);
    }
    return text;
}

std::map<std::string, std::string> metadata_for(const WeightSource& source, const Config& config,
                                                const SampleForm& form, bool with_states) {
    std::map<std::string, std::string> metadata;
    for (const auto& [key, value] : source.metadata())
        if (is_valid_name(key) && key != "format" && key != "step" && (with_states || key == "tokenizer"))
            metadata.emplace(key, value);
    const bool of_folder = std::filesystem::is_directory(source.path());
    metadata["config"] = of_folder ? without_data(config, source.path() + "/config.json") : config.resolved();
    metadata["data.vocabulary"] = fmt::format("{}", form.classes);
    metadata["imported_from"] = std::filesystem::path(source.path()).filename().string();
    return metadata;
}

} // namespace

std::unique_ptr<WeightSource> open_weight_source(const std::string& path) {
    const File file = open_weights(path);
    std::int32_t magic = 0;
    if (file.bytes() >= 4) file.read_at(0, &magic, sizeof magic);
    return std::make_unique<FileWeights>(magic == llmc_model_magic ? open_llmc(path) : open_safetensors(path));
}

namespace {

FoundWeights find_in_folder(const std::string& path, const std::string& config_path,
                            const std::vector<std::string>& overrides) {
    const HubFolder folder(path);
    std::vector<std::string> words;
    for (const HubSetting& setting : folder.settings())
        words.push_back(fmt::format("{}={}", setting.key, toml_text(setting.value)));
    words.insert(words.end(), overrides.begin(), overrides.end());
    Config config = config_path.empty() ? Config::parse(folder.toml(), path + "/config.json", overrides, known_keys())
                                        : Config::load(config_path, words, known_keys());
    std::unique_ptr<WeightSource> source = folder.weights(config);
    FoundWeights found{std::move(source), std::move(config), folder.toml()};
    if (!holds_tokenizer(path)) return found;
    try {
        found.tokenizer = Tokenizer::open(path)->save();
    } catch (const DataError& error) { // the weights are of use without
        found.no_tokenizer = error.what();
    }
    return found;
}

} // namespace

FoundWeights find_weights(const std::string& path, const std::string& config_path,
                          const std::vector<std::string>& overrides) {
    if (HubFolder::is_one(path)) return find_in_folder(path, config_path, overrides);
    if (std::filesystem::is_directory(path))
        throw ConfigError(fmt::format("{} is no folder of Hugging Face's: it has no config.json", path));
    std::unique_ptr<WeightSource> source = open_weight_source(path);
    if (!config_path.empty()) return {std::move(source), Config::load(config_path, overrides, known_keys())};
    const auto kept = source->metadata().find("config");
    if (kept == source->metadata().end())
        throw ConfigError(fmt::format("{} does not say how its model is built: say --config CONFIG", path));
    Config config = Config::parse(kept->second, path + ":config", overrides, known_keys());
    return {std::move(source), std::move(config)};
}

Imported import_weights(const WeightSource& source, const Config& config, const std::string& checkpoints_folder,
                        const std::string& tokenizer) {
    const SampleForm form = form_of(source, config);
    const Graph graph = graph_of(config, form);
    std::vector<const Value*> states = values_of(graph, ValueKind::optimizer_state), weights;
    for (const Value* parameter : values_of(graph, ValueKind::parameter))
        weights.push_back(parameter);
    const auto of_model = std::stable_partition(states.begin(), states.end(),
                                                [](const Value* state) { return is_optimizer_state(state->name); });
    weights.insert(weights.end(), of_model, states.end()); // running statistics
    states.erase(of_model, states.end());
    Imported result;
    result.with_states = !states.empty() && std::all_of(states.begin(), states.end(),
                                                        [&](const Value* state) { return source.has(state->name); });
    result.step = result.with_states ? step_said(source) : 0;
    std::vector<TensorSource> sources;
    for (const Value* weight : weights)
        sources.push_back(source_in(source, *weight));
    for (const Value* state : states)
        sources.push_back(result.with_states ? source_in(source, *state) : fresh_state(source, *state));
    refuse_unknown(source, sources);
    std::map<std::string, std::string> metadata = metadata_for(source, config, form, result.with_states);
    if (!tokenizer.empty()) metadata["tokenizer"] = tokenizer;
    result.folder = save_in_pieces(checkpoints_folder, result.step, metadata, sources);
    return result;
}

} // namespace tessera
