// SPDX-License-Identifier: Apache-2.0
// Best first: what has the lowest bound is looked at more closely, until the fastest are known (A*: Hart et al. 1968).
#include "core/run/layout_search.hpp"

#include "core/run/describe_cost.hpp"
#include "core/run/layout_planner.hpp"
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

// The layouts that share some choices. From level to level they share more, and their bound rises.
struct Open {
    enum class Level { inner_axes, rows, layout, estimated };
    double seconds = 0; // no less than this
    std::int64_t number = 0;
    Level level = Level::inner_axes;
    std::size_t group = 0; // of equal inner axes
    std::int64_t rows = 0; // of a micro-batch
    Choices outer{};       // degrees of pipeline, replicas and data
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
        : asked_(config), options_(options), choices_(config, options, machine.ranks_per_node),
          groups_(choices_.groups()), planner_(config, options, machine, dataset, stream) {}

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
            if (next.level == Open::Level::estimated) finish(next);
        }
        std::ranges::stable_sort(result_.best, {}, [](const FoundLayout& one) { return one.cost.total(); });
        if (result_.best.empty()) find_least_memory();
        if (result_.fit + result_.too_large > 0) planner_.refuse_unread();
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
    std::vector<std::string> families_of(const Open& one) const;
    bool spare(const Open& one);
    void finish(const Open& one);
    void retry(const Open& one);
    void find_least_memory();

    const Config& asked_;
    const SearchOptions& options_;
    LayoutChoices choices_;
    std::vector<LayoutGroup> groups_;
    LayoutPlanner planner_;
    std::map<std::tuple<std::size_t, std::int64_t, std::size_t>, std::optional<InnerCost>> costs_;
    std::map<std::tuple<std::size_t, std::int64_t, std::size_t, int, int, ScheduleKind, int>, double> pipelines_;
    std::priority_queue<Open> open_;
    std::int64_t opened_ = 0;
    std::set<std::string> fitting_;                   // families that fit without recomputation
    std::map<std::string, std::vector<Open>> spared_; // what was not tried of them
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
    if (is_new) try {
            at->second = planner_.cost_of(groups_[group], rows, choices_.recomputations()[recompute]);
        } catch (const ConfigError& error) {
            if (result_.refusal.empty()) result_.refusal = error.what();
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
            bound =
                cost->seconds(planner_.blocks()) / static_cast<double>(rows) * samples * group.ranks / options_.ranks;
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
    const bool deep = planner_.blocks() == 0 || chunks <= planner_.blocks();
    if (pipeline.stages == 1 || (deep && !uneven)) return true;
    const auto layouts =
        static_cast<std::int64_t>(choices_.zero_stages(one.outer).size() * choices_.recomputations().size());
    refuse(uneven ? fmt::format("the {} micro-batches of a data rank are no multiple of the {} stages of an "
                                "interleaved pipeline",
                                pipeline.micro_batches, pipeline.stages)
                  : fmt::format("the {} layers of the model cannot be shared out over {} chunks of a pipeline",
                                planner_.blocks(), chunks),
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
            static_cast<int>(replicas_in(one.outer)),
            static_cast<int>(one.zero),
            asked_.get(run_reproducible),
            planner_.blocks()};
}

// With the least recomputation of which the bound fits.
void Search::add_layout(Open one) {
    const Outer outer = outer_of(one);
    for (; one.recompute < choices_.recomputations().size(); ++one.recompute) {
        const InnerCost* const cost = cost_of(one.group, one.rows, one.recompute);
        if (cost == nullptr) return refuse(result_.refusal, 1);
        const double memory = least_memory(*cost, outer);
        if (!planner_.is_too_large(memory)) {
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

// Layouts that differ in the stage of ZeRO only; and replicas that differ in their number only. Of either, that which
// shares out most need not be tried where less fits without recomputation.
std::vector<std::string> Search::families_of(const Open& one) const {
    const auto name_without = [&](const std::vector<std::string_view>& keys) {
        std::string name(keys[0]);
        for (const auto& [key, value] : choices_of(one))
            if (std::ranges::find(keys, key) == keys.end()) name += " " + toml_text(value);
        return name;
    };
    std::vector<std::string> names{name_without({parallelism_zero.name})};
    if (replicas_in(one.outer) > 1) names.push_back(name_without({parallelism_replicate.name, parallelism_data.name}));
    return names;
}

// Of less sharing: of the same number of replicas with ZeRO 0 or 1, or of more replicas, which come first.
bool Search::spare(const Open& one) {
    for (const std::string& name : families_of(one)) {
        const bool shares_most = !name.starts_with(parallelism_zero.name) || one.zero >= 2;
        if (!shares_most || !fitting_.contains(name)) continue;
        spared_[name].push_back(one);
        return true;
    }
    return false;
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
    if (spare(one)) return;
    Open found = one;
    if (!one.refined) {
        found.refined = true;
        found.seconds = std::max(one.seconds, pipeline_seconds(one));
        if (found.seconds > one.seconds) return add(std::move(found));
    }
    found.choices = choices_of(one);
    Estimate estimated;
    try {
        estimated = planner_.estimate(found.choices);
    } catch (const ConfigError& error) {
        return refuse(error.what(), 1);
    }
    if (planner_.is_too_large(estimated.memory)) {
        note_too_large(found.choices, estimated.memory, least_planned_);
        return retry(found);
    }
    ++result_.fit;
    for (const std::string& family : families_of(one))
        if (choices_.recomputations()[one.recompute] == "none") fitting_.insert(family);
    found.seconds = estimated.seconds;
    found.level = Open::Level::estimated;
    add(std::move(found));
}

// With its evaluation, too, which may ask for more than training.
void Search::finish(const Open& one) try {
    const auto [experiment, prediction] = planner_.plan(one.choices, true);
    if (prediction.memory > options_.memory) {
        --result_.fit;
        note_too_large(one.choices, static_cast<double>(prediction.memory), least_planned_);
        return retry(one);
    }
    const Layout& layout = experiment.train.layout;
    result_.best.push_back({one.choices, layout.mesh.text(), prediction.cost, bounds_of(prediction.cost, layout),
                            prediction.memory,
                            static_cast<double>(experiment.sizes.units_per_step) / prediction.cost.total(),
                            std::string(experiment.sizes.sample.unit)});
    ++found_;
} catch (const ConfigError& error) {
    --result_.fit;
    refuse(error.what(), 1);
}

// What seemed to fit does not: with more recomputation it may, or what was spared for its sake.
void Search::retry(const Open& one) {
    Open again = one;
    again.level = Open::Level::layout;
    again.choices.clear();
    again.refined = false;
    again.recompute++;
    add_layout(std::move(again));
    for (const std::string& family : families_of(one)) {
        fitting_.erase(family);
        const auto spared = spared_.extract(family);
        if (spared.empty()) continue;
        for (const Open& other : spared.mapped())
            add(other);
    }
}

// Of the layouts that seem to need least, by bound and by estimate, as they are.
void Search::find_least_memory() {
    for (const auto& [choices, memory] : {least_bound_, least_planned_}) {
        if (choices.empty()) continue;
        const auto [experiment, prediction] = planner_.plan(choices, false);
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
