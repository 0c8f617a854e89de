// SPDX-License-Identifier: Apache-2.0
// The plan, pass by pass: placements, local shapes, order, memory, collectives.
#include "core/plan/plan.hpp"

#include "core/plan/passes.hpp"
#include "core/plan/shares.hpp"
#include "kernels/error.hpp"
#include "kernels/memory.hpp"
#include "parallel/communication/communicator.hpp"

#include <algorithm>
#include <bit>
#include <fmt/format.h>
#include <numeric>

namespace tessera {

std::string_view name_of(MemoryKind kind) {
    constexpr std::array<std::string_view, memory_kinds> names = {
        "weights", "gradients", "optimizer", "activations", "workspace", "communication", "data", "checkpoint"};
    return names[static_cast<std::size_t>(kind)];
}

std::int64_t MemoryNeed::total() const { return std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0}); }

std::int64_t MemoryNeed::where_the_stream_works() const {
    return total() - (*this)[MemoryKind::data] - (*this)[MemoryKind::checkpoint];
}

void MemoryNeed::grow_to(const MemoryNeed& other) {
    for (std::size_t kind = 0; kind < memory_kinds; ++kind)
        bytes[kind] = std::max(bytes[kind], other.bytes[kind]);
}

namespace {

bool of_micro_batch(const Value& value) {
    if (value.kind == ValueKind::input) return true;
    return value.kind == ValueKind::computed && (value.phase == Phase::forward || value.phase == Phase::backward);
}

MemoryKind memory_of(const Value& value) {
    if (value.accumulated) return MemoryKind::gradients;
    if (value.kind == ValueKind::parameter) return MemoryKind::weights;
    if (value.kind == ValueKind::optimizer_state) return MemoryKind::optimizer;
    if (value.kind == ValueKind::computed && value.phase == Phase::prepare) return MemoryKind::weights;
    return MemoryKind::activations;
}

// A Shard over the data ranks cuts a parameter, but not a value of a micro-batch: there they share out the
// micro-batches of a step, and the graph sees one of them. A gradient may be summed whole and used in part.
PlannedValue plan_value(const Value& value, const Placements& produced, const Placements& used, const Layout& layout,
                        const std::vector<int>& coordinate) {
    Placements cutting = produced;
    for (std::size_t axis = 0; axis < cutting.size(); ++axis)
        if (of_micro_batch(value) && layout.shares_micro_batches(static_cast<int>(axis)) &&
            cutting[axis].kind == Placement::Kind::shard)
            cutting[axis] = Placement::replicate();
    const Box box = local_box(value.type.shape, cutting, layout.mesh, coordinate);
    const Range held = run_of(box, produced, layout.mesh, coordinate);
    const bool whole = held == Range{0, box.count()};
    const bool flat = std::ranges::find(produced, Placement::flat()) != produced.end();
    const Shape shape = flat ? Shape{held.size()} : box.shape();
    return {used,
            box,
            whole ? run_of(box, used, layout.mesh, coordinate) : held,
            {shape, value.type.dtype},
            memory_of(value),
            -1};
}

std::vector<TensorType> seen_types(const Plan& plan, const std::vector<ValueId>& ids, Phase phase) {
    std::vector<TensorType> types;
    for (const ValueId id : ids)
        types.push_back(plan.seen(id, phase));
    return types;
}

// How an axis cuts a value zig-zag, if one does.
Locality::Zigzag zigzag_of(const Placements& placements, const Layout& layout) {
    for (std::size_t axis = 0; axis < placements.size(); ++axis)
        if (layout.strategies[axis]->zigzag() && placements[axis].kind == Placement::Kind::shard)
            return {placements[axis].value, layout.mesh.axis(static_cast<int>(axis)).size};
    return {};
}

// Of the ranks that hold the same summand, the first of their axis counts it.
Locality locality_of(const Node& node, const PlacedGraph& placed, const Plan& plan, const Layout& layout,
                     const std::vector<int>& coordinate) {
    Locality locality;
    const auto produced = [&](ValueId id) -> const Placements& {
        return placed.placements.produced[static_cast<std::size_t>(id)];
    };
    for (const ValueId input : node.inputs) {
        locality.wholes.push_back(placed.graph.value(input).type.shape);
        locality.inputs.push_back(plan.value(input).box);
        locality.runs.push_back(plan.value(input).run);
        locality.zigzags.push_back(zigzag_of(produced(input), layout));
        bool counts = true;
        const Placements& at = placed.placements.used[static_cast<std::size_t>(input)];
        for (std::size_t axis = 0; !node.outputs.empty() && axis < at.size(); ++axis)
            counts = counts && (produced(node.outputs[0])[axis] != Placement::partial() ||
                                at[axis] != Placement::replicate() || coordinate[axis] == 0);
        counts = counts && plan.value(input).box.held;
        locality.counts.push_back(counts);
    }
    return locality;
}

std::vector<TensorType> whole_types(const Graph& graph, const std::vector<ValueId>& ids) {
    std::vector<TensorType> types;
    for (const ValueId id : ids)
        types.push_back(graph.value(id).type);
    return types;
}

void append_calls(const PlacedGraph& placed, const Order& order, const Stream& stream, const Layout& layout,
                  const std::vector<int>& coordinate, Plan& plan) {
    for (std::size_t i = 0; i < order.nodes.size(); ++i) {
        const std::int32_t index = order.nodes[i];
        const Node& node = placed.graph.nodes()[static_cast<std::size_t>(index)];
        const std::vector<TensorType> inputs = seen_types(plan, node.inputs, node.phase);
        const std::vector<TensorType> outputs = seen_types(plan, node.outputs, node.phase);
        const std::int64_t workspace = align_up(node.op->workspace_bytes(stream, inputs, outputs));
        plan.memory[MemoryKind::workspace] = std::max(plan.memory[MemoryKind::workspace], workspace);
        plan.phases[static_cast<std::size_t>(node.phase)].push_back(
            {index, workspace, locality_of(node, placed, plan, layout, coordinate), order.ahead_of[i]});
    }
}

double flops_per_micro_batch(const Graph& graph) {
    double flops = 0;
    for (const std::int32_t index : live_nodes(graph)) {
        const Node& node = graph.nodes()[static_cast<std::size_t>(index)];
        if (of_micro_batch(node) && !node.repeated)
            flops += node.op->flops(whole_types(graph, node.inputs), whole_types(graph, node.outputs));
    }
    return flops;
}

// Every axis of more than one rank gets workspace for the largest reduction over any of them (see Memory).
std::int64_t communication_bytes(const Graph& graph, const Layout& layout, const Stream& stream, const Plan& plan) {
    std::int64_t most = 0;
    const auto reduced = [&](int axis, std::int64_t bytes) {
        most = std::max(most, align_up(tree_reduce_workspace_bytes(bytes, layout.mesh.axis(axis).size,
                                                                   back_end_for(stream, layout.one_host))));
    };
    for (const Exchange& exchange : plan.exchanges)
        if (exchange.collective == Collective::reduce_scatter)
            reduced(exchange.axis, exchange.bytes);
        else
            for (const SlotPiece& piece : pieces_of(exchange, plan))
                reduced(exchange.axis, piece.bytes);
    for (const auto& phase : plan.phases)
        for (const Call& call : phase) {
            const Node& node = graph.nodes()[static_cast<std::size_t>(call.node)];
            const auto transfer = node.op->transfer();
            if (transfer &&
                (transfer->collective == Collective::all_reduce || transfer->collective == Collective::reduce_scatter))
                reduced(transfer->axis, plan.value(node.inputs[0]).local.bytes());
        }
    return most * layout.mesh.shared_axes();
}

// Whole subtrees of the summation tree; or of its replica's, every shard_ranks-th micro-batch. The latter sums a round
// of neighbours first, which are a subtree when the ranks are a power of two.
void share_out(const Layout& layout, int place, Plan& plan) {
    const int ranks = layout.shard_ranks();
    plan.share = share_of(layout, place);
    if (!layout.rounds || ranks == 1) return;
    const std::string& axis = layout.mesh.axis(layout.data_axis).name;
    for (int replica = 0; replica < layout.replicas(); ++replica)
        if (const Range share = share_of_replica(layout, replica); share.size() % ranks != 0)
            throw ConfigError(
                fmt::format("parallelism.zero_stage 2 and 3 sum the gradients of each micro-batch over the {} "
                            "ranks of mesh axis '{}': the {} micro-batches of a {} must be a multiple of that",
                            ranks, axis, share.size(), layout.replicas() == 1 ? "step" : "replica"));
    if (layout.reproducible && !std::has_single_bit(static_cast<unsigned>(ranks)))
        throw ConfigError(fmt::format("parallelism.zero_stage 2 and 3 sum in another order on {} ranks of mesh axis "
                                      "'{}' than on one: take a power of two of them, stage 1, or set "
                                      "run.reproducible = false",
                                      ranks, axis));
    plan.stride = ranks;
}

// Where weights are gathered in every micro-batch, a rank with fewer of them takes part in the gathering all the same;
// and one that has none takes part in the sums that end the step. By ZeRO 3 a rank trains with as many as the others.
std::int64_t idle_rounds(const Graph& graph, const Layout& layout, int place, const Plan& plan) {
    const int first = place / layout.shard_ranks() * layout.shard_ranks(); // of its replica
    const std::int64_t least = plan.share.size() == 0 ? 1 : 0;
    for (const std::int32_t index : live_nodes(graph)) {
        const Node& node = graph.nodes()[static_cast<std::size_t>(index)];
        const auto transfer = node.op->transfer();
        if (node.phase != Phase::forward || !transfer || transfer->axis != layout.data_axis) continue;
        std::int64_t most = plan.share.size();
        for (int rank = 0; rank < layout.shard_ranks() && plan.stride == 1; ++rank)
            most = std::max(most, share_of(layout, first + rank).size());
        return std::max(most - plan.share.size(), least);
    }
    return least;
}

} // namespace

TensorType Plan::seen(ValueId id, Phase phase) const {
    const PlannedValue& planned = value(id);
    const bool part = phase == Phase::update && planned.run.size() != planned.local.shape.count();
    return part ? TensorType{{planned.run.size()}, planned.local.dtype} : planned.local;
}

double bubble(const Plan& plan, const Layout& layout) {
    if (layout.stages() == 1 || plan.share.size() == 0) return 0;
    const bool trains = !plan.calls(Phase::backward).empty();
    return makespan(layout.pipeline(plan.share.size(), trains), plan.chunk_flops).bubble();
}

CutGraph cut_graph(const Graph& graph, const Layout& layout) {
    if (static_cast<int>(layout.strategies.size()) != layout.mesh.axis_count())
        throw InternalError("a layout needs one strategy per axis of its mesh");
    Plan refused_early;
    share_out(layout, 0, refused_early);
    auto placed = std::make_shared<PlacedGraph>(place_graph(graph, layout));
    auto stages = std::make_shared<Stages>(cut_stages(*placed, layout));
    pass_values_on(*placed, layout, *stages);
    return {std::move(placed), std::move(stages)};
}

Plan make_plan(const Graph& graph, const Layout& layout, int rank, const Stream& stream) {
    return make_plan(cut_graph(graph, layout), layout, rank, stream);
}

Plan make_plan(const CutGraph& graph, const Layout& layout, int rank, const Stream& stream) {
    const PlacedGraph& placed = *graph.placed;
    const Stages& stages = *graph.stages;
    const std::vector<int> coordinate = layout.mesh.coordinate(rank);
    Plan plan;
    plan.coordinate = coordinate;
    const int place = data_place(layout, coordinate);
    share_out(layout, place, plan);
    const int slots = slots_needed(std::max<std::int64_t>(plan.share.size(), 1));
    plan.slots = layout.reproducible ? slots : std::min(2, slots);
    const ValuePlacements& placements = placed.placements;
    for (std::size_t i = 0; i < placed.graph.values().size(); ++i)
        plan.values.push_back(
            plan_value(placed.graph.values()[i], placements.produced[i], placements.used[i], layout, coordinate));
    const int stage = layout.pipeline_axis < 0 ? 0 : coordinate[static_cast<std::size_t>(layout.pipeline_axis)];
    plan.idle_rounds = idle_rounds(placed.graph, layout, place, plan);
    const Order order =
        gather_ahead(placed.graph, layout, plan.parts, plan_parts(placed.graph, stages, layout, stage, plan));
    plan.chunk_flops = stages.chunk_flops;
    plan.flops_per_micro_batch = flops_per_micro_batch(placed.graph);
    assign_memory(placed.graph, order.nodes, plan);
    append_calls(placed, order, stream, layout, coordinate, plan);
    plan.exchanges = plan_exchanges(placed, layout, plan);
    plan.memory[MemoryKind::communication] = communication_bytes(placed.graph, layout, stream, plan);
    plan.graph = placed.graph;
    return plan;
}

} // namespace tessera
