// SPDX-License-Identifier: Apache-2.0
// Names here to names there, and weights by boxes.
#include "core/run/transfer.hpp"

#include "core/checkpoint/walk.hpp"
#include "core/config_catalog.hpp"
#include "core/formats/hugging_face/folder.hpp"
#include "core/formats/import.hpp"
#include "core/optimizers/weight_average.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <filesystem>
#include <fmt/format.h>
#include <fnmatch.h>
#include <set>

namespace tessera {
namespace {

class CheckpointWeights final : public WeightSource {
public:
    CheckpointWeights(const std::string& folder, bool averages) : checkpoint_(folder), averages_(averages) {
        if (averages) require_averages(checkpoint_);
    }

    const std::string& path() const override { return checkpoint_.folder(); }
    const std::map<std::string, std::string>& metadata() const override { return checkpoint_.metadata(); }
    std::optional<std::int64_t> vocabulary() const override { return {}; }
    bool has(const std::string& name) const override { return checkpoint_.has(name); }
    Shape shape_of(const std::string& name, const Shape& wanted) const override {
        for (const SavedTensor& tensor : checkpoint_.tensors())
            if (tensor.name == name) return tensor.whole; // an average's, too
        return wanted;
    }
    void require(const std::string& name, const Shape& whole) const override {
        checkpoint_.require(there(name), whole, DType::f32);
    }
    void read(const std::string& name, const Shape&, const std::vector<std::int64_t>& start,
              const View& part) const override {
        checkpoint_.read(there(name), start, part);
    }
    std::vector<std::string> beside(const std::set<std::string>& names) const override {
        std::vector<std::string> found;
        for (const SavedTensor& tensor : checkpoint_.tensors())
            if (!names.contains(tensor.name) && !is_optimizer_state(tensor.name)) found.push_back(tensor.name);
        return found;
    }

private:
    std::string there(const std::string& name) const {
        const std::string average = weight_average_of(name);
        return averages_ && checkpoint_.has(average) ? average : name;
    }

    Checkpoint checkpoint_;
    bool averages_;
};

// What of a folder's model the config here says otherwise, but for sizes, which shapes tell.
std::vector<std::string> unlike(const HubFolder& folder, const Config& config) {
    std::vector<std::string> found;
    const std::vector<ConfigEntry> entries = config.entries();
    for (const HubSetting& setting : folder.settings()) {
        const auto here = std::ranges::find(entries, setting.key, &ConfigEntry::name);
        const bool size = std::holds_alternative<std::int64_t>(setting.value) && setting.key != model_heads.name;
        if (!setting.key.starts_with("model.") || size || setting.key == model_tied_head.name || here == entries.end())
            continue;
        if (const std::string said = toml_text(setting.value); said != here->value)
            found.push_back(fmt::format("{} = {}, here {}", setting.key, said, here->value));
    }
    return found;
}

std::unique_ptr<WeightSource> open_source(const Config& config, const std::string& path, Transferred& transferred) {
    namespace fs = std::filesystem;
    const fs::path checkpoints = fs::path(path) / "checkpoints";
    const bool averages = config.get(model_init_ema);
    if (fs::is_directory(checkpoints)) {
        const std::string newest = newest_checkpoint(checkpoints.string());
        if (newest.empty()) config.refuse(model_init_from.name, "holds no checkpoint");
        return std::make_unique<CheckpointWeights>(newest, averages);
    }
    if (averages && (HubFolder::is_one(path) || !fs::is_directory(path)))
        config.refuse(model_init_ema.name, fmt::format("is of checkpoints, and {} is none", path));
    if (HubFolder::is_one(path)) {
        const HubFolder folder(path);
        transferred.unlike = unlike(folder, config);
        return folder.weights(Config::parse(folder.toml(), path + "/config.json", {}, known_keys()));
    }
    if (fs::is_directory(path)) return std::make_unique<CheckpointWeights>(path, averages);
    return open_weight_source(path);
}

std::string name_there(const std::vector<std::string>& rules, const std::string& name) {
    for (const std::string& rule : rules) {
        const std::size_t equals = rule.find('=');
        if (name.starts_with(rule.substr(0, equals))) return rule.substr(equals + 1) + name.substr(equals);
    }
    return name;
}

bool is_skipped(const std::vector<std::string>& patterns, const std::string& name) {
    return std::ranges::any_of(
        patterns, [&](const std::string& pattern) { return fnmatch(pattern.c_str(), name.c_str(), 0) == 0; });
}

// Of a tensor there that is to be ours: its own shape, which may have more positions.
Shape shape_there(const WeightSource& source, const std::string& name, const Value& value) {
    const Shape ours = value.shape_outside(), theirs = source.shape_of(name, ours);
    const bool longer = value.parameter && value.parameter->role == "position" && theirs.rank() == 2 &&
                        theirs[0] > ours[0] && theirs[1] == ours[1];
    try {
        source.require(name, longer ? theirs : ours);
    } catch (const ConfigError& error) {
        throw ConfigError(fmt::format("{} ({} starts it at random: model.init_skip = [\"{}\"])", error.what(),
                                      model_init_skip.name, value.name));
    }
    return longer ? theirs : ours;
}

} // namespace

Transferred take_weights(const Config& config, const Program& program, const ViewOf& view_of, Stream& stream) {
    check_transfer_keys(config);
    const std::vector<std::string> rules = config.get(model_init_rename), skipped = config.get(model_init_skip);
    Transferred transferred;
    const std::unique_ptr<WeightSource> source = open_source(config, config.get(model_init_from), transferred);
    std::set<std::string> used;
    const Graph& graph = program.model.graph;
    std::vector<ValueId> weights = graph.of_kind(ValueKind::parameter);
    for (const ValueId id : graph.of_kind(ValueKind::optimizer_state)) // running statistics
        if (!is_optimizer_state(graph.value(id).name)) weights.push_back(id);
    for (const ValueId id : weights) {
        const Value& value = graph.value(id);
        const std::string there = name_there(rules, value.name);
        if (is_skipped(skipped, value.name) || !source->has(there)) {
            transferred.started.push_back(value.name);
            continue;
        }
        const Shape whole = shape_there(*source, there, value);
        fill_held(program, id, view_of(id), stream, [&](const std::vector<std::int64_t>& start, const View& part) {
            source->read(there, whole, start, part);
        });
        used.insert(there);
        transferred.taken.push_back(value.name);
    }
    if (transferred.taken.empty())
        config.refuse(model_init_from.name, fmt::format("holds none of the model's {} weights, such as '{}'",
                                                        transferred.started.size(), transferred.started.front()));
    transferred.beside = source->beside(used);
    return transferred;
}

std::string transfer_text(const Transferred& transferred, const std::string& from) {
    std::string text = fmt::format("{} of {} weights are those of {}", transferred.taken.size(),
                                   transferred.taken.size() + transferred.started.size(), from);
    if (!transferred.started.empty()) text += fmt::format("; at random: {}", fmt::join(transferred.started, ", "));
    if (!transferred.beside.empty()) text += fmt::format("; not taken: {}", fmt::join(transferred.beside, ", "));
    return text;
}

void check_transfer_keys(const Config& config) {
    const std::string from = config.get(model_init_from);
    const std::vector<std::string> rules = config.get(model_init_rename), skipped = config.get(model_init_skip);
    for (const std::string& rule : rules)
        if (rule.find('=') == std::string::npos)
            config.refuse(model_init_rename.name, fmt::format("'{}' is no rule OURS=THEIRS", rule));
    const bool averages = config.get(model_init_ema);
    if (!from.empty()) return;
    if (averages)
        config.refuse(model_init_ema.name, "says which weights to take, and model.init_from says from nowhere");
    for (const Key<std::vector<std::string>>& key : {model_init_rename, model_init_skip})
        if (!config.get(key).empty())
            config.refuse(key.name, "says how to take weights, and model.init_from says from nowhere");
}

} // namespace tessera
