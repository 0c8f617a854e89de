// SPDX-License-Identifier: Apache-2.0
// Candidates, estimates, and exact plans of the best.
#include "core/run/layout_search.hpp"

#include "core/config_catalog.hpp"
#include "core/plan/shares.hpp"
#include "core/run/describe_cost.hpp"
#include "core/run/prediction.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <bit>
#include <fmt/format.h>
#include <limits>
#include <optional>
#include <utility>

namespace tessera {

namespace {

// Layers are alike, but for the first and the last; so are the layers of a pipeline's chunks.
constexpr std::int64_t few_layers = 2;
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

std::int64_t data_ranks_in(const Choices& choices) {
    return degree_in(choices, parallelism_data.name) * degree_in(choices, parallelism_replicate.name);
}

// The same mesh with ZeRO inside each node: nothing where the data ranks are not on several nodes, or only one a node.
std::optional<Choices> with_replicas(Choices mesh, int ranks_per_node) {
    const std::int64_t within = degree_in(mesh, parallelism_expert.name) * degree_in(mesh, parallelism_context.name) *
                                degree_in(mesh, parallelism_tensor.name);
    const std::int64_t data = degree_in(mesh, parallelism_data.name), near = ranks_per_node / within;
    if (near < 2 || data <= near || data % near != 0) return std::nullopt;
    for (auto& [name, value] : mesh) {
        if (name == parallelism_data.name) value = near;
        if (name == parallelism_replicate.name) value = data / near;
    }
    return mesh;
}

// Of a stage.
std::int64_t chunks_in(const Choices& choices) {
    for (const auto& [name, value] : choices)
        if (name == parallelism_schedule.name && std::get<std::string>(value) != "interleaved") return 1;
    return degree_in(choices, parallelism_chunks.name);
}

Choices with(Choices choices, std::string_view key, ConfigValue value) {
    choices.emplace_back(key, std::move(value));
    return choices;
}

// In what order the stages of a pipeline work.
struct Schedule {
    std::string name;
    std::int64_t chunks; // of a stage
};

struct Candidate {
    Choices choices;
    double seconds = 0;
    double bubble = 0; // of them
    double memory = 0;
};

struct Planned {
    Experiment experiment;
    Prediction prediction;
};

// Whether the largest chunk of a pipeline grows by one layer where each has got one more: not so where what stands
// behind the layers outweighs them.
bool grows_evenly(const Planned& few, const Planned& more, std::int64_t layers_added) {
    double largest[2] = {}, all[2] = {};
    for (const bool deeper : {false, true})
        for (const ChunkTime& time : (deeper ? more : few).experiment.train.plan.chunk_flops) {
            const double work = time.forward + time.backward + time.weights;
            largest[deeper] = std::max(largest[deeper], work);
            all[deeper] += work;
        }
    return (largest[1] - largest[0]) * static_cast<double>(layers_added) > 0.99 * (all[1] - all[0]);
}

class Search {
public:
    Search(const Config& config, const SearchOptions& options, const Machine& machine, const Dataset* dataset,
           const Stream& stream)
        : asked_(config), config_(config), options_(options), machine_(machine), dataset_(dataset), stream_(stream) {}

    SearchResult run() {
        for (const Choices& mesh : meshes())
            for (const std::int64_t rows : rows_of_micro_batches(data_ranks_in(mesh)))
                try_schedules(
                    with(with(mesh, training_local_batch.name, rows), training_accumulation.name, std::int64_t{0}),
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
    std::vector<Schedule> schedules(std::int64_t stages) const;
    void try_schedules(const Choices& choices, const Choices& mesh);
    void try_ways(const Choices& choices, const Choices& mesh);
    double seconds_to_beat() const;
    bool may_be_faster(std::size_t first) const;
    bool waits_too_long(const Choices& choices) const;
    Planned plan(const Choices& choices, std::int64_t layers);
    bool is_too_large(double memory) const { return memory > doubt * static_cast<double>(options_.memory); }
    void note_least_seconds(const Planned& shallow, const Planned& deeper, double times);
    Candidate estimate(const Choices& choices);
    enum class Outcome { fits, too_large, refused };
    Outcome try_one(const Choices& choices);
    void finish(const Candidate& candidate);

    const Config& asked_;
    Config config_; // with the choices of the moment
    const SearchOptions& options_;
    const Machine& machine_;
    const Dataset* dataset_;
    const Stream& stream_;
    std::vector<Candidate> candidates_;
    double least_seconds_ = 0; // of a step's products alone, on all ranks; 0: not known yet
    SearchResult result_;
};

std::vector<Choices> Search::meshes() const {
    std::vector<std::string_view> free;
    std::int64_t ranks = options_.ranks;
    Choices chosen;
    for (const std::string_view key : degree_keys()) {
        const std::int64_t degree = asked_.get(Key<std::int64_t>{key, 1, {}});
        if (key == parallelism_replicate.name && !is_given(asked_, key)) {
            chosen.emplace_back(key, 1);
            continue;
        }
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
    const bool said = is_given(asked_, parallelism_replicate.name) || is_given(asked_, parallelism_data.name);
    for (std::size_t i = 0, meshes = found.size(); i < meshes && !said; ++i)
        if (const auto hybrid = with_replicas(found[i], machine_.ranks_per_node)) found.push_back(*hybrid);
    std::ranges::stable_sort(found, {}, [](const Choices& mesh) { return degree_in(mesh, parallelism_pipeline.name); });
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

// Interleaved where the layers can be dealt out evenly. gpipe takes as long as 1f1b and more memory.
std::vector<Schedule> Search::schedules(std::int64_t stages) const {
    std::vector<Schedule> found;
    for (const std::string& name : values(parallelism_schedule, stages > 1, {"1f1b", "zero_bubble", "interleaved"}))
        for (const std::int64_t chunks : values(parallelism_chunks, name == "interleaved", {2, 4}))
            if (name != "interleaved" || is_given(asked_, parallelism_chunks.name) ||
                asked_.get(model_layers) % (stages * chunks) == 0)
                found.push_back({name, chunks});
    return found;
}

// The first schedule is the one that needs least memory.
void Search::try_schedules(const Choices& choices, const Choices& mesh) {
    const std::size_t before = candidates_.size();
    for (const Schedule& schedule : schedules(degree_in(mesh, parallelism_pipeline.name))) {
        const Choices all =
            with(with(choices, parallelism_schedule.name, schedule.name), parallelism_chunks.name, schedule.chunks);
        if ((candidates_.size() == before || may_be_faster(before)) && !waits_too_long(all)) try_ways(all, mesh);
    }
}

// By the candidates so far: those that are slower will not be among the best.
double Search::seconds_to_beat() const {
    if (candidates_.size() <= options_.most) return std::numeric_limits<double>::infinity();
    std::vector<double> seconds;
    for (const Candidate& candidate : candidates_)
        seconds.push_back(candidate.seconds);
    std::ranges::nth_element(seconds, seconds.begin() + static_cast<std::ptrdiff_t>(options_.most));
    return seconds[options_.most];
}

// Another schedule changes the bubble only: whether one of the candidates from `first` on could be among the best.
bool Search::may_be_faster(std::size_t first) const {
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t i = first; i < candidates_.size(); ++i)
        least = std::min(least, candidates_[i].seconds - candidates_[i].bubble);
    return least < seconds_to_beat();
}

// Whether the bubble of even chunks, with products alone, is too much already.
bool Search::waits_too_long(const Choices& choices) const {
    const auto stages = static_cast<int>(degree_in(choices, parallelism_pipeline.name));
    const std::int64_t share =
        asked_.get(training_global_batch) / data_ranks_in(choices) / degree_in(choices, training_local_batch.name);
    if (stages == 1 || least_seconds_ == 0) return false;
    std::string_view schedule = parallelism_schedule.fallback;
    for (const auto& [name, value] : choices)
        if (name == parallelism_schedule.name) schedule = std::get<std::string>(value);
    const auto chunks = static_cast<int>(chunks_in(choices));
    if (chunks > 1 && share % stages != 0) return false; // which is refused
    const Pipeline pipeline{schedule_named(schedule), stages, chunks, share, true};
    const std::vector<ChunkTime> even(static_cast<std::size_t>(stages * chunks), ChunkTime{1, 1, 1});
    return least_seconds_ / (1 - makespan(pipeline, even).bubble()) > seconds_to_beat();
}

// Whatever is shared out or computed again beyond what fits costs time only: it is not tried.
void Search::try_ways(const Choices& choices, const Choices& mesh) {
    const bool tensor = degree_in(mesh, parallelism_tensor.name) > 1, data = degree_in(mesh, parallelism_data.name) > 1;
    for (const bool sequence : values(parallelism_sequence, tensor, {false, true})) {
        bool fits = false; // without recomputation
        for (const std::int64_t stage : values(parallelism_zero, data, {0, 1, 2, 3})) {
            if (fits && stage >= 2) break;
            if (stage == 0 && degree_in(mesh, parallelism_replicate.name) > 1) continue; // replicas of nothing
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

Planned Search::plan(const Choices& choices, std::int64_t layers) {
    for (const auto& [key, value] : choices)
        config_.settle(key, value);
    config_.settle(model_layers.name, layers);
    RankView view{0, options_.ranks, options_.ranks <= machine_.ranks_per_node};
    Experiment experiment = plan_training(config_, view, dataset_, stream_);
    const Layout& layout = experiment.train.layout;
    const int busiest = busiest_place(layout); // keeps most sums of gradients at once
    if (busiest != 0) {
        view.rank = layout.mesh.rank(at_data_place(layout, layout.mesh.coordinate(0), busiest));
        experiment = plan_training(config_, view, dataset_, stream_);
    }
    const std::int64_t memory = memory_of(experiment, machine_);
    if (is_too_large(static_cast<double>(memory))) return {std::move(experiment), {{}, memory}};
    Prediction prediction = predict(experiment, config_, view, dataset_, stream_, machine_);
    return {std::move(experiment), std::move(prediction)};
}

// The model's operations at the highest speed: all layouts have the same batch.
void Search::note_least_seconds(const Planned& shallow, const Planned& deeper, double times) {
    const auto flops = [](const Planned& one) {
        return one.experiment.train.plan.flops_per_micro_batch *
               static_cast<double>(one.experiment.batch.micro_batches);
    };
    const Precision& precision = shallow.experiment.sizes.precision;
    double speed = std::max(machine_.product_flops(precision.compute), machine_.attention_flops(precision.compute));
    if (precision.linear_f8) speed = std::max(speed, machine_.product_flops(DType::f8e4m3));
    least_seconds_ = (flops(shallow) + times * (flops(deeper) - flops(shallow))) / options_.ranks / speed;
}

// From a few layers, where that tells of all.
Candidate Search::estimate(const Choices& choices) {
    const std::int64_t layers = asked_.get(model_layers);
    const std::int64_t stages = degree_in(choices, parallelism_pipeline.name);
    std::int64_t few = few_layers, step = 1;
    if (stages > 1) few = step = stages * chunks_in(choices);
    const auto as_it_is = [&] {
        const Prediction all = plan(choices, layers).prediction;
        return Candidate{choices, all.cost.total(), all.cost.bubble, static_cast<double>(all.memory)};
    };
    const auto too_large = [&](const Planned& one) {
        return Candidate{choices, 0, 0, static_cast<double>(one.prediction.memory)};
    };
    if (few + step >= layers) return as_it_is();
    Planned shallow = plan(choices, few);
    if (is_too_large(static_cast<double>(shallow.prediction.memory))) return too_large(shallow);
    Planned deeper = plan(choices, few + step);
    for (std::int64_t planned = 2 * few + step; stages > 1 && !grows_evenly(shallow, deeper, step);) {
        few += step;
        planned += few + step;
        if (few + step >= layers || planned > layers) return as_it_is();
        shallow = std::exchange(deeper, plan(choices, few + step));
    }
    if (is_too_large(static_cast<double>(deeper.prediction.memory))) return too_large(deeper);
    note_least_seconds(shallow, deeper, static_cast<double>(layers - few) / static_cast<double>(step));
    const auto times = static_cast<double>((layers - few + step - 1) / step); // the largest stage counts
    const auto at_depth = [&](double first, double second) { return first + times * (second - first); };
    const StepCost &first = shallow.prediction.cost, &second = deeper.prediction.cost;
    return {choices, at_depth(first.total(), second.total()), at_depth(first.bubble, second.bubble),
            at_depth(static_cast<double>(shallow.prediction.memory), static_cast<double>(deeper.prediction.memory))};
}

Search::Outcome Search::try_one(const Choices& choices) {
    ++result_.tried;
    Candidate candidate;
    try {
        candidate = estimate(choices);
    } catch (const ConfigError& error) {
        ++result_.refused;
        result_.refusal = error.what();
        return Outcome::refused;
    }
    if (is_too_large(candidate.memory)) {
        ++result_.too_large;
        return Outcome::too_large;
    }
    ++result_.fit;
    candidates_.push_back(std::move(candidate));
    return Outcome::fits;
}

void Search::finish(const Candidate& candidate) {
    const auto [experiment, prediction] = plan(candidate.choices, asked_.get(model_layers));
    if (prediction.memory > options_.memory) {
        --result_.fit;
        ++result_.too_large;
        return;
    }
    const Layout& layout = experiment.train.layout;
    result_.best.push_back({candidate.choices, layout.mesh.text(), prediction.cost, bounds_of(prediction.cost, layout),
                            prediction.memory,
                            static_cast<double>(experiment.sizes.units_per_step) / prediction.cost.total()});
}

} // namespace

SearchResult search_layouts(const Config& config, const SearchOptions& options, const Machine& machine,
                            const Dataset* dataset, const Stream& stream) {
    return Search(config, options, machine, dataset, stream).run();
}

} // namespace tessera
