// SPDX-License-Identifier: Apache-2.0
// What a model wants, found in a file, and saved.
#include "core/formats/import.hpp"

#include "core/checkpoint/manifest.hpp"
#include "core/checkpoint/streamed_save.hpp"
#include "core/data/options.hpp"
#include "core/formats/llmc.hpp"
#include "core/formats/safetensors.hpp"
#include "core/model.hpp"
#include "core/optimizers/optimizer.hpp"
#include "core/run/experiment.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fmt/format.h>
#include <set>

namespace tessera {
namespace {

constexpr const char* token_table = "embedding.weight";

// What the model must know of its samples: of text the vocabulary is that of the file's token table.
SampleForm form_of(const WeightFile& file, const Config& config) {
    const StoredTensor* table = file.find(token_table);
    if (!reads_text(config)) {
        if (auto form = form_without_data(config, 1)) return *form;
        config.refuse(data_reader.name, "without the data the form of its samples is not known: say data.classes and "
                                        "data.image_shape or data.features");
    }
    if (table == nullptr || table->shape.rank() != 2 || table->shape[0] < 1)
        throw ConfigError(fmt::format("{} has no token table '{}'", file.path(), token_table));
    if (config.get(training_sequence) < 1) config.refuse(training_sequence.name, "must be at least 1");
    return text_form(config.get(training_sequence), table->shape[0]);
}

// Parameters and optimizer states of a training run; batch and ranks make no difference to them.
Graph graph_of(const Config& config, const SampleForm& form) {
    ModelSizes sizes;
    sizes.sample = form;
    if (config.get(training_dtype) == "f16") sizes.precision.compute = DType::f16; // it has a loss scale
    Model model = build_model(config, sizes, Purpose::train);
    const std::vector<ValueId> gradients = differentiate(model.graph, model.loss(), model.losses_beside);
    std::optional<Guard> guard = append_guard(model.graph, config, model.loss_scale.has_value());
    append_optimizer(model.graph, gradients, *make_optimizer(config),
                     {.loss_scale = model.loss_scale,
                      .guard = guard ? &*guard : nullptr,
                      .loss = model.loss(),
                      .counted = model.counted});
    return std::move(model.graph);
}

std::vector<const Value*> values_of(const Graph& graph, ValueKind kind) {
    std::vector<const Value*> values;
    for (const ValueId id : graph.of_kind(kind))
        values.push_back(&graph.value(id));
    return values;
}

// The elements of `value` from the file, which must have them in this shape.
TensorSource source_in(const WeightFile& file, const Value& value) {
    const Shape shape = value.shape_outside();
    const StoredTensor* stored = file.find(value.name);
    if (stored == nullptr) {
        std::vector<std::string_view> names;
        for (const StoredTensor& tensor : file.tensors())
            names.emplace_back(tensor.name);
        const std::string nearest = nearest_name(value.name, names);
        throw ConfigError(fmt::format("{} has no tensor '{}', which the model needs{}", file.path(), value.name,
                                      nearest.empty() ? "" : fmt::format("; there is '{}'", nearest)));
    }
    if (stored->shape != shape)
        throw ConfigError(fmt::format("{}: tensor '{}' is {}, the model wants {}", file.path(), value.name,
                                      stored->shape.text(), shape.text()));
    if (stored->dtype == DType::i32)
        throw ConfigError(
            fmt::format("{}: tensor '{}' is i32, the model wants numbers with a fraction", file.path(), value.name));
    return {{value.name, shape, value.type.dtype},
            [&file, stored](const TensorPiece& piece, const View& part) { file.read(*stored, piece.first, part); }};
}

TensorSource fresh_state(const Value& value) {
    const float start = value.parameter ? 0.0f : value.start;
    return {{value.name, value.shape_outside(), value.type.dtype},
            [start](const TensorPiece&, const View& part) { std::fill_n(part.as<float>(), part.count(), start); }};
}

void refuse_unknown(const WeightFile& file, const std::vector<TensorSource>& sources, bool with_states) {
    std::set<std::string_view> known;
    for (const TensorSource& source : sources)
        known.insert(source.tensor.name);
    for (const StoredTensor& tensor : file.tensors())
        if (!known.contains(tensor.name) && (with_states || !is_optimizer_state(tensor.name)))
            throw ConfigError(fmt::format(
                "{}: {}", file.path(), no_such_name("tensor of the model", tensor.name, {known.begin(), known.end()})));
}

std::int64_t step_said(const WeightFile& file) {
    const auto found = file.metadata().find("step");
    std::int64_t step = -1;
    if (found == file.metadata().end()) return 0;
    const char *first = found->second.data(), *end = first + found->second.size();
    const auto [stop, error] = std::from_chars(first, end, step);
    if (error != std::errc() || stop != end || step < 0)
        throw ConfigError(fmt::format("{}: its metadata say step '{:.40}'", file.path(), found->second));
    return step;
}

std::map<std::string, std::string> metadata_for(const WeightFile& file, const Config& config, const SampleForm& form,
                                                bool with_states) {
    std::map<std::string, std::string> metadata;
    for (const auto& [key, value] : file.metadata())
        if (is_valid_name(key) && key != "format" && key != "step" && (with_states || key == "tokenizer"))
            metadata.emplace(key, value);
    metadata["config"] = config.resolved();
    metadata["data.vocabulary"] = fmt::format("{}", form.classes);
    metadata["imported_from"] = std::filesystem::path(file.path()).filename().string();
    return metadata;
}

} // namespace

WeightFile open_weight_file(const std::string& path) {
    const File file = open_weights(path);
    std::int32_t magic = 0;
    if (file.bytes() >= 4) file.read_at(0, &magic, sizeof magic);
    return magic == llmc_model_magic ? open_llmc(path) : open_safetensors(path);
}

Imported import_weights(const WeightFile& file, const Config& config, const std::string& checkpoints_folder) {
    const SampleForm form = form_of(file, config);
    const Graph graph = graph_of(config, form);
    const std::vector<const Value*> states = values_of(graph, ValueKind::optimizer_state);
    Imported result;
    result.with_states = !states.empty() && std::all_of(states.begin(), states.end(), [&](const Value* state) {
        return file.find(state->name) != nullptr;
    });
    result.step = result.with_states ? step_said(file) : 0;
    std::vector<TensorSource> sources;
    for (const Value* parameter : values_of(graph, ValueKind::parameter))
        sources.push_back(source_in(file, *parameter));
    for (const Value* state : states)
        sources.push_back(result.with_states ? source_in(file, *state) : fresh_state(*state));
    refuse_unknown(file, sources, result.with_states);
    result.folder =
        save_in_pieces(checkpoints_folder, result.step, metadata_for(file, config, form, result.with_states), sources);
    return result;
}

} // namespace tessera
