// SPDX-License-Identifier: Apache-2.0
// Degrees, rows, schedules, stages and recomputations, one list for each.
#include "core/run/layout_choices.hpp"

#include "core/config_catalog.hpp"
#include "core/data/options.hpp"
#include "core/layers/catalog.hpp"
#include "core/run/layout_bounds.hpp"

#include <algorithm>
#include <bit>
#include <fmt/format.h>
#include <map>
#include <tuple>

namespace tessera {
namespace {

// The keys "parallelism.…_degree", each an axis of the mesh.
std::vector<std::string_view> degree_keys() {
    std::vector<std::string_view> names;
    for (const KeyInfo& key : known_keys())
        if (key.name.starts_with("parallelism.") && key.name.ends_with("_degree")) names.push_back(key.name);
    return names;
}

// All ways to write `ranks` as a product of degrees, one for each key from `at` on.
void add_meshes(const std::vector<std::string_view>& keys, std::size_t at, std::int64_t ranks, Choices& chosen,
                std::vector<Choices>& found) {
    if (at == keys.size()) {
        if (ranks == 1) found.push_back(chosen);
        return;
    }
    for (std::int64_t degree = 1; degree <= ranks; ++degree) {
        if (ranks % degree != 0) continue;
        chosen.emplace_back(keys[at], degree);
        add_meshes(keys, at + 1, ranks / degree, chosen, found);
        chosen.pop_back();
    }
}

bool is_outer(std::string_view key) {
    return key == parallelism_data.name || key == parallelism_replicate.name || key == parallelism_pipeline.name;
}

bool has_convolutions(const Config& config) {
    if (config.get(model_type) != "layers") return false;
    return std::ranges::any_of(config.items("model.layers"),
                               [](const ConfigItem& layer) { return layer.get(layer_type) == "convolution"; });
}

} // namespace

LayoutChoices::LayoutChoices(const Config& config, const SearchOptions& options, std::int64_t ranks_per_node)
    : config_(config), options_(options), ranks_per_node_(ranks_per_node), reads_text_(reads_text(config)),
      convolves_(has_convolutions(config)) {}

// Whether the search tries an axis of which the command line says nothing.
bool LayoutChoices::is_searched(std::string_view key) const {
    if (key == parallelism_replicate.name) return options_.ranks > ranks_per_node_;
    if (key == parallelism_spatial.name || key == parallelism_spatial_width.name) return convolves_;
    if (key == parallelism_sample.name) return false; // smaller micro-batches share samples out and send less
    if (key == parallelism_context.name || key == parallelism_expert.name) return reads_text_;
    return true;
}

// A replica is there so that what it shares out travels within a node: were it part of one, so would what its copies
// exchange.
bool LayoutChoices::is_sensible(const Choices& mesh) const {
    if (replicas_in(mesh) == 1 || is_given(parallelism_replicate.name)) return true;
    const std::int64_t ranks = options_.ranks / replicas_in(mesh) / degree_in(mesh, parallelism_pipeline.name);
    return degree_in(mesh, parallelism_data.name) > 1 && ranks % ranks_per_node_ == 0;
}

std::int64_t degree_in(const Choices& choices, std::string_view key) {
    for (const auto& [name, value] : choices)
        if (name == key) return std::get<std::int64_t>(value);
    return 1;
}

std::int64_t data_ranks_in(const Choices& choices) {
    return degree_in(choices, parallelism_data.name) * replicas_in(choices);
}

std::int64_t replicas_in(const Choices& choices) { return degree_in(choices, parallelism_replicate.name); }

std::vector<Choices> LayoutChoices::meshes() const {
    std::vector<std::string_view> free;
    std::int64_t ranks = options_.ranks;
    Choices chosen;
    for (const std::string_view key : degree_keys()) {
        const std::int64_t degree = config_.get(Key<std::int64_t>{key, 1, {}});
        if (degree < 1 && degree != -1) config_.refuse(key, "must be at least 1, or -1 for what is left");
        if (degree == -1 || (is_searched(key) && !is_given(key))) {
            free.push_back(key);
            continue;
        }
        if (ranks % degree != 0) config_.refuse(key, fmt::format("does not divide {} ranks", options_.ranks));
        ranks /= degree;
        chosen.emplace_back(key, degree);
    }
    std::vector<Choices> found;
    add_meshes(free, 0, ranks, chosen, found);
    std::erase_if(found, [&](const Choices& mesh) { return !is_sensible(mesh); });
    std::ranges::stable_sort(found, {}, [](const Choices& mesh) {
        return std::tuple(degree_in(mesh, parallelism_pipeline.name), replicas_in(mesh) > 1, -replicas_in(mesh));
    });
    return found;
}

std::vector<std::int64_t> LayoutChoices::rows() const {
    const std::int64_t global = config_.get(training_global_batch), said = config_.get(training_local_batch);
    if (global < 1)
        config_.refuse(training_global_batch.name,
                       "a search compares layouts with the same batch: say how many samples");
    std::vector<std::int64_t> found;
    for (std::int64_t rows = 1; rows <= global; ++rows)
        if (global % rows == 0 && (rows == said || (std::has_single_bit(static_cast<std::uint64_t>(rows)) &&
                                                    !is_given(training_local_batch.name))))
            found.push_back(rows);
    return found;
}

// What the search may set a key to.
template <class T> std::vector<T> LayoutChoices::values(const Key<T>& key, bool matters, std::vector<T> all) const {
    if (is_given(key.name)) return {config_.get(key)};
    if (!matters) return {T(key.fallback)};
    return all;
}

std::vector<ScheduleChoice> LayoutChoices::schedules(std::int64_t stages) const {
    std::vector<ScheduleChoice> found;
    for (const std::string& name : values(parallelism_schedule, stages > 1, {"1f1b", "zero_bubble", "interleaved"}))
        for (const std::int64_t chunks : values(parallelism_chunks, name == "interleaved", {2, 4}))
            if (name != "interleaved" || is_given(parallelism_chunks.name) ||
                equal_blocks(config_) % (stages * chunks) == 0)
                found.push_back({name, chunks});
    return found;
}

std::vector<std::int64_t> LayoutChoices::zero_stages(const Choices& outer) const {
    if (replicas_in(outer) > 1) return values(parallelism_zero, true, {1, 2, 3});
    return values(parallelism_zero, data_ranks_in(outer) > 1, {0, 1, 2, 3});
}

std::vector<std::string> LayoutChoices::recomputations() const {
    return values(training_recompute, true, {"none", "selective", "full"});
}

std::vector<LayoutGroup> LayoutChoices::groups() const {
    std::vector<LayoutGroup> groups;
    std::map<std::string, std::size_t> by_degrees;
    for (const Choices& mesh : meshes()) {
        LayoutGroup group;
        Choices outer;
        std::string name;
        for (const auto& [key, value] : mesh) {
            (is_outer(key) ? outer : group.inner).emplace_back(key, value);
            if (is_outer(key)) continue;
            group.ranks *= static_cast<int>(std::get<std::int64_t>(value));
            name += toml_text(value) + " ";
        }
        const bool tensor = degree_in(mesh, parallelism_tensor.name) > 1;
        for (const bool sequence : values(parallelism_sequence, tensor, {false, true})) {
            const auto [at, is_new] = by_degrees.emplace(name + (sequence ? "s" : ""), groups.size());
            if (is_new) {
                groups.push_back(group);
                groups.back().inner.emplace_back(parallelism_sequence.name, sequence);
            }
            groups[at->second].outer.push_back(outer);
        }
    }
    return groups;
}

std::int64_t LayoutChoices::count(const LayoutGroup& group, std::int64_t rows) const {
    std::int64_t sum = 0;
    for (const Choices& outer : group.outer)
        if (rows <= config_.get(training_global_batch) / data_ranks_in(outer))
            sum += static_cast<std::int64_t>(schedules(degree_in(outer, parallelism_pipeline.name)).size() *
                                             zero_stages(outer).size() * recomputations().size());
    return sum;
}

} // namespace tessera
