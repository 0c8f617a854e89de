// SPDX-License-Identifier: Apache-2.0
// Best first: what has the lowest bound is looked at more closely, until the fastest are known (A*: Hart et al. 1968).
#include "core/run/layout_search.hpp"

#include "core/plan/shares.hpp"
#include "core/run/describe_cost.hpp"
#include "core/run/layout_bounds.hpp"
#include "core/run/layout_choices.hpp"
#include "core/run/prediction.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <limits>
#include <map>
#include <optional>
#include <queue>
#include <set>
#include <utility>

namespace tessera {

namespace {

// Layers are alike, but for the first and the last; so are the layers of a pipeline's chunks.
constexpr std::int64_t few_layers = 2;
// An estimate of memory may be too large by so much: what is near the limit is planned as it is.
constexpr double doubt = 1.02;

// Of a stage.
std::int64_t chunks_in(const Choices& choices) {
    for (const auto& [name, value] : choices)
        if (name == parallelism_schedule.name && std::get<std::string>(value) != "interleaved") return 1;
    return degree_in(choices, parallelism_chunks.name);
}

struct Estimate {
    double seconds = 0;
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

// The layouts that share some choices. From level to level they share more, and their bound rises.
struct Open {
    enum class Level { inner_axes, rows, layout, estimated };
    double seconds = 0; // no less than this
    std::int64_t number = 0;
    Level level = Level::inner_axes;
    std::size_t group = 0; // of equal inner axes
    std::int64_t rows = 0; // of a micro-batch
    Choices outer{};       // degrees of data and pipeline
    ScheduleChoice schedule{};
    std::int64_t zero = 0;
    std::size_t recompute = 0; // of recomputations()
    bool refined = false;      // its bound is that of its pipeline
    Choices choices{};         // all of a layout's

    bool operator<(const Open& other) const { // the queue has the largest first
        return std::tie(seconds, number) > std::tie(other.seconds, other.number);
    }
};

class Search {
public:
    Search(const Config& config, const SearchOptions& options, const Machine& machine, const Dataset* dataset,
           const Stream& stream)
        : asked_(config), config_(config), options_(options), machine_(machine), dataset_(dataset), stream_(stream),
          choices_(config, options), groups_(choices_.groups()) {}

    SearchResult run() {
        for (std::size_t i = 0; i < groups_.size(); ++i) {
            for (const std::int64_t rows : choices_.rows())
                result_.tried += choices_.count(groups_[i], rows);
            add({.level = Open::Level::inner_axes, .group = i});
        }
        while (!open_.empty() && found_ < options_.most) {
            const Open next = open_.top();
            open_.pop();
            if (next.level == Open::Level::inner_axes) open_rows(next);
            if (next.level == Open::Level::rows) open_layouts(next);
            if (next.level == Open::Level::layout) try_layout(next);
            if (next.level == Open::Level::estimated) finish(next.choices);
        }
        std::ranges::stable_sort(result_.best, {}, [](const FoundLayout& one) { return one.cost.total(); });
        if (result_.best.empty()) find_least_memory();
        if (result_.fit + result_.too_large > 0) config_.refuse_unread("command line");
        result_.slower = result_.tried - result_.fit - result_.too_large - result_.refused;
        return std::move(result_);
    }

private:
    struct Least { // of the layouts that are too large
        Choices choices;
        double memory = std::numeric_limits<double>::infinity();
    };

    const InnerCost* cost_of(std::size_t group, std::int64_t rows, std::size_t recompute);
    void refuse(const std::string& why, std::int64_t layouts);
    void add(Open one);
    void open_rows(const Open& one);
    void open_layouts(const Open& one);
    bool can_take_turns(const Open& one);
    void add_layout(Open one);
    Outer outer_of(const Open& one) const;
    void note_too_large(const Choices& choices, double memory, Least& least);
    double pipeline_seconds(const Open& one);
    void try_layout(const Open& one);
    Choices choices_of(const Open& one) const;
    std::string family_of(const Open& one) const;

    bool is_too_large(double memory) const { return memory > doubt * static_cast<double>(options_.memory); }
    Planned plan(const Choices& choices, std::int64_t layers, bool evaluates = false);
    Estimate estimate(const Choices& choices);
    void finish(const Choices& choices);
    void find_least_memory();

    const Config& asked_;
    Config config_; // with the choices of the moment
    const SearchOptions& options_;
    const Machine& machine_;
    const Dataset* dataset_;
    const Stream& stream_;
    LayoutChoices choices_;
    std::vector<LayoutGroup> groups_;
    std::map<std::tuple<std::size_t, std::int64_t, std::size_t>, std::optional<InnerCost>> costs_;
    std::map<std::tuple<std::size_t, std::int64_t, std::size_t, int, int, ScheduleKind, int>, double> pipelines_;
    std::priority_queue<Open> open_;
    std::int64_t opened_ = 0;
    std::set<std::string> fitting_; // families that fit without recomputation
    Least least_bound_, least_planned_;
    std::size_t found_ = 0;
    SearchResult result_;
};

void Search::refuse(const std::string& why, std::int64_t layouts) {
    result_.refused += layouts;
    if (layouts > 0) result_.refusal = why;
}

void Search::add(Open one) {
    one.number = opened_++;
    open_.push(std::move(one));
}

// Null: it is refused.
const InnerCost* Search::cost_of(std::size_t group, std::int64_t rows, std::size_t recompute) {
    const auto [at, is_new] = costs_.try_emplace({group, rows, recompute});
    if (is_new) {
        Config config = asked_;
        const auto set = [&](std::string_view key, ConfigValue value) { config.settle(key, std::move(value)); };
        for (const auto& [key, value] : groups_[group].inner)
            set(key, value);
        set(parallelism_data.name, std::int64_t{1});
        set(parallelism_replicate.name, std::int64_t{1});
        set(parallelism_pipeline.name, std::int64_t{1});
        set(parallelism_zero.name, std::int64_t{0});
        set(training_global_batch.name, rows);
        set(training_local_batch.name, rows);
        set(training_accumulation.name, std::int64_t{0});
        set(training_recompute.name, choices_.recomputations()[recompute]);
        try {
            at->second = inner_cost(std::move(config), groups_[group].ranks, options_.ranks <= machine_.ranks_per_node,
                                    dataset_, stream_, machine_);
        } catch (const ConfigError& error) {
            if (result_.refusal.empty()) result_.refusal = error.what();
        }
    }
    return at->second ? &*at->second : nullptr;
}

// Per sample large micro-batches take least: their bound is one for all.
void Search::open_rows(const Open& one) {
    const LayoutGroup& group = groups_[one.group];
    std::vector<std::int64_t> all;
    for (const std::int64_t rows : choices_.rows())
        if (choices_.count(group, rows) > 0) all.push_back(rows);
    const InnerCost* cost = nullptr;
    double bound = 0;
    for (std::size_t i = all.size(); i-- > 0;) {
        const std::int64_t rows = all[i];
        if (cost == nullptr) {
            cost = cost_of(one.group, rows, 0);
            if (cost == nullptr) {
                refuse(result_.refusal, choices_.count(group, rows));
                continue;
            }
            const auto samples = static_cast<double>(asked_.get(training_global_batch));
            bound = cost->seconds(asked_.get(model_layers)) / static_cast<double>(rows) * samples * group.ranks /
                    options_.ranks;
        }
        add({.seconds = bound, .level = Open::Level::rows, .group = one.group, .rows = rows});
    }
}

void Search::open_layouts(const Open& one) {
    const LayoutGroup& group = groups_[one.group];
    if (cost_of(one.group, one.rows, 0) == nullptr) return refuse(result_.refusal, choices_.count(group, one.rows));
    for (const Choices& outer : group.outer) {
        if (one.rows > asked_.get(training_global_batch) / data_ranks_in(outer)) continue;
        for (const ScheduleChoice& schedule : choices_.schedules(degree_in(outer, parallelism_pipeline.name))) {
            Open layout = one;
            layout.level = Open::Level::layout;
            layout.outer = outer;
            layout.schedule = schedule;
            if (!can_take_turns(layout)) continue;
            for (const std::int64_t zero : choices_.zero_stages(outer)) {
                layout.zero = zero;
                add_layout(layout);
            }
        }
    }
}

// What would be refused only after all layers have been planned.
bool Search::can_take_turns(const Open& one) {
    const Pipeline pipeline = outer_of(one).pipeline;
    const std::int64_t chunks = std::int64_t{pipeline.stages} * pipeline.chunks;
    const bool uneven = pipeline.chunks > 1 && pipeline.micro_batches % pipeline.stages != 0;
    if (pipeline.stages == 1 || (chunks <= asked_.get(model_layers) && !uneven)) return true;
    const auto layouts =
        static_cast<std::int64_t>(choices_.zero_stages(one.outer).size() * choices_.recomputations().size());
    refuse(uneven ? fmt::format("the {} micro-batches of a data rank are no multiple of the {} stages of an "
                                "interleaved pipeline",
                                pipeline.micro_batches, pipeline.stages)
                  : fmt::format("the {} layers of the model cannot be shared out over {} chunks of a pipeline",
                                asked_.get(model_layers), chunks),
           layouts);
    return false;
}

Outer Search::outer_of(const Open& one) const {
    const auto data = static_cast<int>(data_ranks_in(one.outer));
    const auto stages = static_cast<int>(degree_in(one.outer, parallelism_pipeline.name));
    const std::int64_t micro_batches = asked_.get(training_global_batch) / one.rows;
    const auto chunks = static_cast<int>(stages > 1 && one.schedule.name == "interleaved" ? one.schedule.chunks : 1);
    return {{schedule_named(one.schedule.name), stages, chunks, (micro_batches + data - 1) / data, true},
            data,
            static_cast<int>(one.zero),
            asked_.get(run_reproducible),
            asked_.get(model_layers)};
}

// With the least recomputation of which the bound fits.
void Search::add_layout(Open one) {
    const Outer outer = outer_of(one);
    for (; one.recompute < choices_.recomputations().size(); ++one.recompute) {
        const InnerCost* const cost = cost_of(one.group, one.rows, one.recompute);
        if (cost == nullptr) return refuse(result_.refusal, 1);
        const double memory = least_memory(*cost, outer);
        if (!is_too_large(memory)) {
            one.seconds = std::max(one.seconds, least_seconds(*cost, outer));
            return add(std::move(one));
        }
        note_too_large(choices_of(one), memory, least_bound_);
    }
}

void Search::note_too_large(const Choices& choices, double memory, Least& least) {
    ++result_.too_large;
    if (memory < least.memory) least = {choices, memory};
}

Choices Search::choices_of(const Open& one) const {
    Choices all = groups_[one.group].inner;
    all.insert(all.end(), one.outer.begin(), one.outer.end());
    all.emplace_back(training_local_batch.name, one.rows);
    all.emplace_back(training_accumulation.name, std::int64_t{0});
    all.emplace_back(parallelism_schedule.name, one.schedule.name);
    all.emplace_back(parallelism_chunks.name, one.schedule.chunks);
    all.emplace_back(parallelism_zero.name, one.zero);
    all.emplace_back(training_recompute.name, choices_.recomputations()[one.recompute]);
    return all;
}

// Layouts that differ in the stage of ZeRO only.
std::string Search::family_of(const Open& one) const {
    Open first = one;
    first.zero = 0;
    std::string name;
    for (const auto& [key, value] : choices_of(first))
        name += toml_text(value) + " ";
    return name;
}

// The same for all stages of ZeRO.
double Search::pipeline_seconds(const Open& one) {
    const Outer outer = outer_of(one);
    const auto [at, is_new] =
        pipelines_.try_emplace(std::tuple(one.group, one.rows, one.recompute, outer.data_ranks, outer.pipeline.stages,
                                          outer.pipeline.kind, outer.pipeline.chunks));
    if (is_new) at->second = seconds_of_pipeline(*cost_of(one.group, one.rows, one.recompute), outer);
    return at->second;
}

// Whatever is shared out or computed again beyond what fits costs time only: it is not tried.
void Search::try_layout(const Open& one) {
    if (one.zero >= 2 && fitting_.contains(family_of(one))) return;
    Open found = one;
    if (!one.refined) {
        found.refined = true;
        found.seconds = std::max(one.seconds, pipeline_seconds(one));
        if (found.seconds > one.seconds) return add(std::move(found));
    }
    found.choices = choices_of(one);
    Estimate estimated;
    try {
        estimated = estimate(found.choices);
    } catch (const ConfigError& error) {
        return refuse(error.what(), 1);
    }
    if (is_too_large(estimated.memory)) {
        note_too_large(found.choices, estimated.memory, least_planned_);
        found.recompute++;
        found.refined = false;
        found.choices.clear();
        return add_layout(std::move(found));
    }
    ++result_.fit;
    if (choices_.recomputations()[one.recompute] == "none") fitting_.insert(family_of(one));
    found.seconds = estimated.seconds;
    found.level = Open::Level::estimated;
    add(std::move(found));
}

// Evaluations take time to plan, and seldom more memory than training.
Planned Search::plan(const Choices& choices, std::int64_t layers, bool evaluates) {
    for (const auto& [key, value] : choices)
        config_.settle(key, value);
    config_.settle(model_layers.name, layers);
    const TrainingPlans plans(config_, options_.ranks, options_.ranks <= machine_.ranks_per_node, dataset_, stream_,
                              evaluates);
    int rank = 0;
    Experiment experiment = plans.of(rank);
    const Layout& layout = experiment.train.layout;
    const int busiest = busiest_place(layout); // keeps most sums of gradients at once
    if (busiest != 0) {
        rank = layout.mesh.rank(at_data_place(layout, layout.mesh.coordinate(0), busiest));
        experiment = plans.of(rank);
    }
    const std::int64_t memory = memory_of(experiment, machine_);
    if (is_too_large(static_cast<double>(memory))) return {std::move(experiment), {{}, memory}};
    Prediction prediction = predict(experiment, plans, rank, machine_);
    return {std::move(experiment), std::move(prediction)};
}

// From a few layers, where that tells of all and takes less.
Estimate Search::estimate(const Choices& choices) {
    const std::int64_t layers = asked_.get(model_layers);
    const std::int64_t stages = degree_in(choices, parallelism_pipeline.name);
    std::int64_t few = few_layers, step = 1;
    if (stages > 1) few = step = stages * chunks_in(choices);
    const auto as_it_is = [&] {
        const Prediction all = plan(choices, layers).prediction;
        return Estimate{all.cost.total(), static_cast<double>(all.memory)};
    };
    const auto too_large = [&](const Planned& one) { return Estimate{0, static_cast<double>(one.prediction.memory)}; };
    if (2 * few + step >= layers) return as_it_is();
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
    const auto times = static_cast<double>((layers - few + step - 1) / step); // the largest stage counts
    const auto at_depth = [&](double first, double second) { return first + times * (second - first); };
    return {at_depth(shallow.prediction.cost.total(), deeper.prediction.cost.total()),
            at_depth(static_cast<double>(shallow.prediction.memory), static_cast<double>(deeper.prediction.memory))};
}

// With its evaluation, too, which may ask for more than training.
void Search::finish(const Choices& choices) try {
    const auto [experiment, prediction] = plan(choices, asked_.get(model_layers), true);
    if (prediction.memory > options_.memory) {
        --result_.fit;
        return note_too_large(choices, static_cast<double>(prediction.memory), least_planned_);
    }
    const Layout& layout = experiment.train.layout;
    result_.best.push_back({choices, layout.mesh.text(), prediction.cost, bounds_of(prediction.cost, layout),
                            prediction.memory,
                            static_cast<double>(experiment.sizes.units_per_step) / prediction.cost.total()});
    ++found_;
} catch (const ConfigError& error) {
    --result_.fit;
    refuse(error.what(), 1);
}

// Of the layouts that seem to need least, by bound and by estimate, as they are.
void Search::find_least_memory() {
    for (const auto& [choices, memory] : {least_bound_, least_planned_}) {
        if (choices.empty()) continue;
        const auto [experiment, prediction] = plan(choices, asked_.get(model_layers));
        if (result_.least_memory > 0 && prediction.memory >= result_.least_memory) continue;
        result_.least_memory = prediction.memory;
        result_.least_mesh = experiment.train.layout.mesh.text();
        result_.least = choices;
    }
}

} // namespace

SearchResult search_layouts(const Config& config, const SearchOptions& options, const Machine& machine,
                            const Dataset* dataset, const Stream& stream) {
    return Search(config, options, machine, dataset, stream).run();
}

} // namespace tessera
