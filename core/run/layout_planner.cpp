// SPDX-License-Identifier: Apache-2.0
// Whole plans, plans of few blocks, and what follows from these.
#include "core/run/layout_planner.hpp"

#include "core/plan/shares.hpp"
#include "core/run/trainer.hpp"

#include <algorithm>
#include <utility>

namespace tessera {

namespace {

// An estimate of memory may be too large by so much: what is near the limit is planned as it is.
constexpr double doubt = 1.02;

// Of a stage.
std::int64_t chunks_in(const Choices& choices) {
    for (const auto& [name, value] : choices)
        if (name == parallelism_schedule.name && std::get<std::string>(value) != "interleaved") return 1;
    return degree_in(choices, parallelism_chunks.name);
}

// Whether the largest chunk of a pipeline grows by one layer where each has got one more: not so where what stands
// behind the layers outweighs them.
bool grows_evenly(const PlannedLayout& few, const PlannedLayout& more, std::int64_t layers_added) {
    double largest[2] = {}, all[2] = {};
    for (const bool deeper : {false, true})
        for (const ChunkTime& time : (deeper ? more : few).experiment.train.plan.chunk_flops) {
            const double work = time.forward + time.backward + time.weights;
            largest[deeper] = std::max(largest[deeper], work);
            all[deeper] += work;
        }
    return (largest[1] - largest[0]) * static_cast<double>(layers_added) > 0.99 * (all[1] - all[0]);
}

} // namespace

LayoutPlanner::LayoutPlanner(const Config& config, const SearchOptions& options, const Machine& machine,
                             const Dataset* dataset, const Stream& stream)
    : asked_(config), config_(config), options_(options), machine_(machine), dataset_(dataset), stream_(stream),
      blocks_(equal_blocks(config)) {}

bool LayoutPlanner::is_too_large(double memory) const { return memory > doubt * static_cast<double>(options_.memory); }

InnerCost LayoutPlanner::cost_of(const LayoutGroup& group, std::int64_t rows, const std::string& recompute) const {
    Config config = asked_;
    const auto set = [&](std::string_view key, ConfigValue value) { config.settle(key, std::move(value)); };
    for (const auto& [key, value] : group.inner)
        set(key, value);
    set(parallelism_data.name, std::int64_t{1});
    set(parallelism_replicate.name, std::int64_t{1});
    set(parallelism_pipeline.name, std::int64_t{1});
    set(parallelism_zero.name, std::int64_t{0});
    set(training_global_batch.name, rows);
    set(training_local_batch.name, rows);
    set(training_accumulation.name, std::int64_t{0});
    set(training_recompute.name, recompute);
    return inner_cost(std::move(config), group.ranks, options_.ranks <= machine_.ranks_per_node, dataset_, stream_,
                      machine_);
}

// Evaluations take time to plan, and seldom more memory than training.
PlannedLayout LayoutPlanner::plan(const Choices& choices, std::int64_t blocks, bool evaluates) {
    for (const auto& [key, value] : choices)
        config_.settle(key, value);
    if (blocks > 0) config_.settle(model_layers.name, blocks);
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

PlannedLayout LayoutPlanner::plan(const Choices& choices, bool evaluates) {
    PlannedLayout planned = plan(choices, blocks_, evaluates);
    Trainer::check_keys(config_, planned.experiment);
    return planned;
}

// From a few layers, where that tells of all and takes less.
Estimate LayoutPlanner::estimate(const Choices& choices) {
    const std::int64_t layers = blocks_;
    const std::int64_t stages = degree_in(choices, parallelism_pipeline.name);
    std::int64_t few = few_layers, step = 1;
    if (stages > 1) few = step = stages * chunks_in(choices);
    const auto as_it_is = [&] {
        const Prediction all = plan(choices, layers).prediction;
        return Estimate{all.cost.total(), static_cast<double>(all.memory)};
    };
    const auto too_large = [&](const PlannedLayout& one) {
        return Estimate{0, static_cast<double>(one.prediction.memory)};
    };
    if (2 * few + step >= layers) return as_it_is();
    PlannedLayout shallow = plan(choices, few);
    if (is_too_large(static_cast<double>(shallow.prediction.memory))) return too_large(shallow);
    PlannedLayout deeper = plan(choices, few + step);
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

} // namespace tessera
