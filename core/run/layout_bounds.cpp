// SPDX-License-Identifier: Apache-2.0
// Two plans of few layers, and arithmetic.
#include "core/run/layout_bounds.hpp"

#include "core/cost/step_cost.hpp"
#include "kernels/memory.hpp"
#include "parallel/strategies/pipeline_parallel.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>

namespace tessera {
namespace {

constexpr std::size_t kinds_of_bytes = 5;

// Of one depth.
struct Measured {
    LayerWork layers, before, behind;
    std::array<double, kinds_of_bytes> bytes; // resting, in use, gradients, states, activations
};

void add(const ChunkTime& more, ChunkTime& to, double times = 1) {
    to.forward += times * more.forward;
    to.backward += times * more.backward;
    to.weights += times * more.weights;
}

double all_of(const ChunkTime& time) { return time.forward + time.backward + time.weights; }

// By call of the backward pass: whether only gradients of weights come of it, for which no other layer waits.
std::vector<bool> calls_for_weights(const Plan& plan) {
    const std::vector<Call>& calls = plan.calls(Phase::backward);
    const auto node_of = [&](const Call& call) -> const Node& {
        return plan.graph.nodes()[static_cast<std::size_t>(call.node)];
    };
    std::vector<bool> found(calls.size()), awaited(plan.graph.values().size());
    for (std::size_t i = calls.size(); i-- > 0;) {
        const Node& node = node_of(calls[i]);
        found[i] =
            std::ranges::none_of(node.outputs, [&](ValueId id) { return awaited[static_cast<std::size_t>(id)]; });
        for (const ValueId input : node.inputs) {
            const std::int32_t maker = plan.graph.value(input).producer;
            if (maker < 0 || plan.graph.nodes()[static_cast<std::size_t>(maker)].phase != Phase::backward) continue;
            const bool other = plan.graph.nodes()[static_cast<std::size_t>(maker)].layer != node.layer;
            if (!found[i] || other) awaited[static_cast<std::size_t>(input)] = true;
        }
    }
    return found;
}

double flops_of(const Node& node, const Graph& graph) {
    std::vector<TensorType> inputs, outputs;
    for (const ValueId id : node.inputs)
        inputs.push_back(graph.value(id).type);
    for (const ValueId id : node.outputs)
        outputs.push_back(graph.value(id).type);
    return node.op->flops(inputs, outputs);
}

void add_work(const Program& program, const Machine& machine, Measured& measured) {
    const Plan& plan = program.plan;
    const std::vector<bool> for_weights = calls_for_weights(plan);
    bool behind = false; // a layer
    for (const Phase phase : {Phase::forward, Phase::backward}) {
        const std::vector<double> seconds = seconds_of_calls(plan, program.layout, machine, phase);
        for (std::size_t i = 0; i < seconds.size(); ++i) {
            const Node& node = plan.graph.nodes()[static_cast<std::size_t>(plan.calls(phase)[i].node)];
            const bool forward = phase == Phase::forward;
            behind = forward ? behind || node.layer >= 0 : behind && node.layer < 0;
            LayerWork& work = node.layer >= 0 ? measured.layers : behind ? measured.behind : measured.before;
            (forward          ? work.seconds.forward
             : for_weights[i] ? work.seconds.weights
                              : work.seconds.backward) += seconds[i];
            if (forward) work.flops += flops_of(node, plan.graph);
        }
    }
}

Measured measure(const Config& config, int ranks, bool one_host, const Dataset* dataset, const Stream& stream,
                 const Machine& machine) {
    const Program program = TrainingPlans(config, ranks, one_host, dataset, stream, false).of(0).train;
    const Plan& plan = program.plan;
    double resting = 0;
    for (const ValueId id : plan.graph.of_kind(ValueKind::parameter))
        resting += static_cast<double>(align_up(plan.value(id).local.bytes()));
    const auto bytes = [&](MemoryKind kind) { return static_cast<double>(plan.memory[kind]); };
    Measured measured{{},
                      {},
                      {},
                      {resting, bytes(MemoryKind::weights) - resting, static_cast<double>(plan.slot_bytes),
                       bytes(MemoryKind::optimizer), bytes(MemoryKind::activations)}};
    add_work(program, machine, measured);
    return measured;
}

// In the order of Measured.
ByDepth& bytes_of(InnerCost& cost, std::size_t kind) {
    ByDepth* const kinds[kinds_of_bytes] = {&cost.resting, &cost.in_use, &cost.gradients, &cost.states,
                                            &cost.activations};
    return *kinds[kind];
}

// Of a model that does not grow.
InnerCost cost_of_all(const Measured& measured) {
    InnerCost cost{{}, measured.before, measured.behind, {}, {}, {}, {}, {}};
    add(measured.layers.seconds, cost.behind.seconds);
    cost.behind.flops += measured.layers.flops;
    for (std::size_t i = 0; i < kinds_of_bytes; ++i)
        bytes_of(cost, i).without = measured.bytes[i];
    return cost;
}

// Of all chunks of the first stage together: micro-batches under way, as a share of the stage's layers.
double under_way(const Pipeline& pipeline) {
    double sum = 0;
    std::vector<std::int64_t> now(static_cast<std::size_t>(pipeline.chunks)), most = now;
    const Work last = pipeline.splits_backward() ? Work::weights : Work::backward;
    for (const Task& task : tasks_of(pipeline, 0)) {
        const auto chunk = static_cast<std::size_t>(task.chunk);
        if (task.work == Work::forward) most[chunk] = std::max(most[chunk], ++now[chunk]);
        if (task.work == last) --now[chunk];
    }
    for (const std::int64_t frames : most)
        sum += static_cast<double>(frames) / pipeline.chunks;
    return sum;
}

} // namespace

std::int64_t equal_blocks(const Config& config) {
    return config.get(model_type) == "layers" ? 0 : config.get(model_layers);
}

InnerCost inner_cost(Config config, int ranks, bool one_host, const Dataset* dataset, const Stream& stream,
                     const Machine& machine) {
    const std::int64_t layers = equal_blocks(config);
    if (layers == 0) return cost_of_all(measure(config, ranks, one_host, dataset, stream, machine));
    const std::int64_t few = std::min(few_layers, layers);
    const auto at = [&](std::int64_t depth) {
        config.settle(model_layers.name, depth);
        return measure(config, ranks, one_host, dataset, stream, machine);
    };
    const Measured shallow = at(few), deeper = at(few + 1);
    InnerCost cost{deeper.layers, shallow.before, shallow.behind, {}, {}, {}, {}, {}};
    add(shallow.layers.seconds, cost.layer.seconds, -1);
    cost.layer.flops -= shallow.layers.flops;
    for (std::size_t i = 0; i < kinds_of_bytes; ++i) {
        ByDepth& bytes = bytes_of(cost, i);
        bytes.layer = deeper.bytes[i] - shallow.bytes[i];
        bytes.without = shallow.bytes[i] - static_cast<double>(few) * bytes.layer;
    }
    return cost;
}

double InnerCost::seconds(std::int64_t layers) const {
    return all_of(before.seconds) + static_cast<double>(layers) * all_of(layer.seconds) + all_of(behind.seconds);
}

double least_seconds(const InnerCost& cost, const Outer& outer) {
    return static_cast<double>(outer.pipeline.micro_batches) * cost.seconds(outer.layers) / outer.pipeline.stages;
}

double seconds_of_pipeline(const InnerCost& cost, const Outer& outer) {
    if (outer.pipeline.stages == 1 || outer.layers == 0) return least_seconds(cost, outer);
    std::vector<double> flops(static_cast<std::size_t>(outer.layers), cost.layer.flops);
    flops.front() += cost.before.flops;
    flops.push_back(cost.behind.flops);
    const int chunks = outer.pipeline.stages * outer.pipeline.chunks;
    const std::vector<int> chunk_of = cut_evenly(flops, chunks);
    std::vector<ChunkTime> times(static_cast<std::size_t>(chunks));
    add(cost.before.seconds, times.front());
    for (std::size_t layer = 0; layer + 1 < chunk_of.size(); ++layer)
        add(cost.layer.seconds, times[static_cast<std::size_t>(chunk_of[layer])]);
    add(cost.behind.seconds, times.back());
    if (!outer.pipeline.splits_backward())
        for (ChunkTime& time : times)
            time = {time.forward, time.backward + time.weights, 0};
    return makespan(outer.pipeline, times).seconds;
}

double least_memory(const InnerCost& cost, const Outer& outer) {
    const int sharers = outer.zero_stage >= 1 ? outer.data_ranks / outer.replicas : 1;
    const double states = 1.0 / sharers;
    const double gradients = outer.zero_stage >= 2 ? states : 1, in_use = outer.zero_stage >= 3 ? states : 1;
    const std::int64_t share = outer.pipeline.micro_batches;
    const int slots = outer.reproducible ? slots_needed(share) : std::min(2, slots_needed(share));
    const auto kept = [&](const auto& of) {
        const double copies = of(cost.in_use), rests = of(cost.resting);
        // Weights of which no copy is made are in use where they rest.
        return in_use * copies + (copies > 0 ? states : in_use) * rests + slots * gradients * of(cost.gradients) +
               states * of(cost.states);
    };
    const auto layers = static_cast<double>(outer.layers);
    const double of_all = kept([&](const ByDepth& one) { return one.of(layers); });
    if (outer.pipeline.stages == 1) return of_all + cost.activations.of(layers);
    const double of_layer = kept([](const ByDepth& one) { return one.layer; });
    const double in_stage = std::floor(layers / outer.pipeline.stages);
    return std::max(of_all / outer.pipeline.stages,
                    in_stage * (of_layer + under_way(outer.pipeline) * cost.activations.layer));
}

} // namespace tessera
