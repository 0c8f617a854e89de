// SPDX-License-Identifier: Apache-2.0
// Candidates, estimates, and exact plans of the best.
#include "core/run/layout_search.hpp"

#include "core/config_catalog.hpp"
#include "core/plan/shares.hpp"
#include "core/run/describe_cost.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <bit>
#include <fmt/format.h>
#include <optional>

namespace tessera {

namespace {

// Layers are alike, but for the first and the last.
constexpr std::int64_t few_layers = 2, more_layers = 3;
// An estimate of memory may be too large by so much: what is near the limit is planned as it is.
constexpr double doubt = 1.02;

bool is_given(const Config& config, std::string_view key) { return config.where(key) == "command line"; }

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

std::int64_t degree_in(const Choices& choices, std::string_view key) {
    for (const auto& [name, value] : choices)
        if (name == key) return std::get<std::int64_t>(value);
    return 1;
}

Choices with(Choices choices, std::string_view key, ConfigValue value) {
    choices.emplace_back(key, std::move(value));
    return choices;
}

struct Candidate {
    Choices choices;
    double seconds = 0;
    double memory = 0;
};

class Search {
public:
    Search(const Config& config, const SearchOptions& options, const Machine& machine, const Dataset* dataset,
           const Stream& stream)
        : asked_(config), config_(config), options_(options), machine_(machine), dataset_(dataset), stream_(stream) {}

    SearchResult run() {
        for (const Choices& mesh : meshes())
            for (const std::int64_t rows : rows_of_micro_batches(degree_in(mesh, parallelism_data.name)))
                try_ways(with(with(mesh, training_local_batch.name, rows), training_accumulation.name, std::int64_t{0}),
                         mesh);
        std::ranges::stable_sort(candidates_, {}, &Candidate::seconds);
        for (const Candidate& candidate : candidates_)
            if (result_.best.size() < options_.most) finish(candidate);
        std::ranges::stable_sort(result_.best, {}, [](const FoundLayout& one) { return one.cost.total(); });
        if (result_.fit + result_.too_large > 0) config_.refuse_unread("command line");
        return std::move(result_);
    }

private:
    std::vector<Choices> meshes() const;
    std::vector<std::int64_t> rows_of_micro_batches(std::int64_t data_ranks) const;
    template <class T> std::vector<T> values(const Key<T>& key, bool matters, std::vector<T> all) const;
    void try_ways(const Choices& choices, const Choices& mesh);
    Experiment plan(const Choices& choices, std::int64_t layers);
    enum class Outcome { fits, too_large, refused };
    Outcome try_one(const Choices& choices);
    std::int64_t memory_of(const Experiment& experiment) const;
    void finish(const Candidate& candidate);

    const Config& asked_;
    Config config_; // with the choices of the moment
    const SearchOptions& options_;
    const Machine& machine_;
    const Dataset* dataset_;
    const Stream& stream_;
    std::vector<Candidate> candidates_;
    SearchResult result_;
};

std::vector<Choices> Search::meshes() const {
    std::vector<std::string_view> free;
    std::int64_t ranks = options_.ranks;
    Choices chosen;
    for (const std::string_view key : degree_keys()) {
        const std::int64_t degree = asked_.get(Key<std::int64_t>{key, 1, {}});
        if (!is_given(asked_, key) || degree < 1) {
            free.push_back(key);
            continue;
        }
        if (ranks % degree != 0) asked_.refuse(key, fmt::format("does not divide {} ranks", options_.ranks));
        ranks /= degree;
        chosen.emplace_back(key, degree);
    }
    std::vector<Choices> found;
    add_meshes(free, 0, ranks, chosen, found);
    return found;
}

// Powers of two, and what the config says.
std::vector<std::int64_t> Search::rows_of_micro_batches(std::int64_t data_ranks) const {
    const std::int64_t global = asked_.get(training_global_batch), said = asked_.get(training_local_batch);
    if (global < 1)
        asked_.refuse(training_global_batch.name,
                      "a search compares layouts with the same batch: say how many samples");
    std::vector<std::int64_t> found;
    for (std::int64_t rows = 1; rows <= global / data_ranks; ++rows)
        if (global % rows == 0 && (rows == said || (std::has_single_bit(static_cast<std::uint64_t>(rows)) &&
                                                    !is_given(asked_, training_local_batch.name))))
            found.push_back(rows);
    return found;
}

// What the search may set a key to.
template <class T> std::vector<T> Search::values(const Key<T>& key, bool matters, std::vector<T> all) const {
    if (is_given(asked_, key.name)) return {asked_.get(key)};
    if (!matters) return {T(key.fallback)};
    return all;
}

// Whatever is shared out or computed again beyond what fits costs time only: it is not tried.
void Search::try_ways(const Choices& choices, const Choices& mesh) {
    const bool tensor = degree_in(mesh, parallelism_tensor.name) > 1, data = degree_in(mesh, parallelism_data.name) > 1;
    for (const bool sequence : values(parallelism_sequence, tensor, {false, true})) {
        bool fits = false; // without recomputation
        for (const std::int64_t stage : values(parallelism_zero, data, {0, 1, 2, 3})) {
            if (fits && stage >= 2) break;
            for (const std::string& what :
                 values(training_recompute, true, std::vector<std::string>{"none", "selective", "full"})) {
                const Outcome outcome =
                    try_one(with(with(with(choices, parallelism_sequence.name, sequence), parallelism_zero.name, stage),
                                 training_recompute.name, what));
                fits = fits || (outcome == Outcome::fits && what == "none");
                if (outcome != Outcome::too_large) break;
            }
        }
    }
}

Experiment Search::plan(const Choices& choices, std::int64_t layers) {
    for (const auto& [key, value] : choices)
        config_.settle(key, value);
    config_.settle(model_layers.name, layers);
    RankView view{0, options_.ranks, options_.ranks <= machine_.ranks_per_node};
    Experiment experiment = plan_training(config_, view, dataset_, stream_);
    const Layout& layout = experiment.train.layout;
    const int busiest = busiest_place(layout); // keeps most sums of gradients at once
    if (busiest == 0) return experiment;
    std::vector<int> coordinate = layout.mesh.coordinate(0);
    coordinate[static_cast<std::size_t>(layout.data_axis)] = busiest;
    view.rank = layout.mesh.rank(coordinate);
    return plan_training(config_, view, dataset_, stream_);
}

// Buffers for data are the host's.
std::int64_t Search::memory_of(const Experiment& experiment) const {
    return experiment.memory.total() - (machine_.gpu ? experiment.memory[MemoryKind::data] : 0);
}

// By estimate.
Search::Outcome Search::try_one(const Choices& choices) {
    ++result_.tried;
    const std::int64_t layers = asked_.get(model_layers);
    const std::int64_t few = std::min(layers, few_layers), more = std::min(layers, more_layers);
    Candidate candidate{choices, 0, 0};
    try {
        double seconds[2], memory[2];
        for (const bool deeper : {false, true}) {
            const Experiment experiment = plan(choices, deeper ? more : few);
            seconds[deeper] = cost_of(experiment.train.plan, experiment.train.layout, machine_).total();
            memory[deeper] = static_cast<double>(memory_of(experiment));
        }
        const auto beyond = static_cast<double>(layers - few);
        candidate.seconds = seconds[0] + beyond * (seconds[1] - seconds[0]);
        candidate.memory = memory[0] + beyond * (memory[1] - memory[0]);
    } catch (const ConfigError& error) {
        ++result_.refused;
        result_.refusal = error.what();
        return Outcome::refused;
    }
    if (candidate.memory > doubt * static_cast<double>(options_.memory)) {
        ++result_.too_large;
        return Outcome::too_large;
    }
    ++result_.fit;
    candidates_.push_back(std::move(candidate));
    return Outcome::fits;
}

void Search::finish(const Candidate& candidate) {
    const Experiment experiment = plan(candidate.choices, asked_.get(model_layers));
    const std::int64_t memory = memory_of(experiment);
    if (memory > options_.memory) {
        --result_.fit;
        ++result_.too_large;
        return;
    }
    const Layout& layout = experiment.train.layout;
    const StepCost cost = cost_of(experiment.train.plan, layout, machine_);
    result_.best.push_back({candidate.choices, layout.mesh.text(), cost, bounds_of(cost, layout), memory,
                            static_cast<double>(experiment.sizes.tokens_per_step) / cost.total()});
}

} // namespace

SearchResult search_layouts(const Config& config, const SearchOptions& options, const Machine& machine,
                            const Dataset* dataset, const Stream& stream) {
    return Search(config, options, machine, dataset, stream).run();
}

} // namespace tessera
