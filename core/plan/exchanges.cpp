// SPDX-License-Identifier: Apache-2.0
// Collectives on what was accumulated over the micro-batches: found value by value, joined where they are neighbours.
#include "core/plan/passes.hpp"
#include "kernels/error.hpp"
#include "kernels/memory.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <map>

namespace tessera {

namespace {

// How many calls of the backward phase must be done for the value to be there in the last micro-batch.
std::size_t calls_before(const Value& value, const Plan& plan) {
    const std::vector<Call>& calls = plan.calls(Phase::backward);
    for (std::size_t i = 0; i < calls.size(); ++i)
        if (calls[i].node == value.producer) return i + 1;
    return 0; // made by the forward phase
}

// The sums over the data axis, and then over the replicas, go on with the tree of the micro-batches. Were another axis
// summed before them, the bits would depend on how many ranks share the micro-batches. A pipeline's stages come last:
// they spread what is finished.
std::vector<int> in_order_of_sums(const Layout& layout) {
    std::vector<int> axes{layout.data_axis};
    if (layout.replica_axis >= 0) axes.push_back(layout.replica_axis);
    for (int axis = 0; axis < layout.mesh.axis_count(); ++axis)
        if (!layout.shares_micro_batches(axis) && axis != layout.pipeline_axis) axes.push_back(axis);
    if (layout.pipeline_axis >= 0) axes.push_back(layout.pipeline_axis);
    return axes;
}

bool is_made_here(const Value& value, const Plan& plan) {
    const auto makes = [&](const Call& call) { return call.node == value.producer; };
    return std::ranges::any_of(plan.calls(Phase::forward), makes) ||
           std::ranges::any_of(plan.calls(Phase::backward), makes);
}

// A value is summed over the replicas once its sum over the data axis is there, whatever buckets the two are in.
void let_replicas_follow(const Layout& layout, std::vector<Exchange>& exchanges) {
    std::map<ValueId, std::size_t> summed; // after how many calls
    for (const Exchange& exchange : exchanges)
        for (const ValueId id : exchange.values)
            if (exchange.axis == layout.data_axis) summed[id] = exchange.after;
    for (Exchange& exchange : exchanges)
        for (const ValueId id : exchange.values)
            if (exchange.axis == layout.replica_axis && summed.contains(id))
                exchange.after = std::max(exchange.after, summed[id]);
}

} // namespace

// After a sum that was scattered, a rank has no more than its run.
std::vector<SlotPiece> pieces_of(const Exchange& exchange, const Plan& plan) {
    std::vector<SlotPiece> pieces;
    for (const ValueId id : exchange.values) {
        if (exchange.bytes == 0) continue; // a planted fault
        const PlannedValue& value = plan.value(id);
        const TensorType seen = plan.seen(id, Phase::update);
        SlotPiece piece{value.offset, align_up(value.local.bytes())};
        if (seen != value.local) piece = {value.offset + value.run.begin * bytes_of(seen.dtype), seen.bytes()};
        if (piece.bytes == 0) continue;
        if (!pieces.empty() && pieces.back().offset + pieces.back().bytes == piece.offset)
            pieces.back().bytes += piece.bytes;
        else
            pieces.push_back(piece);
    }
    return pieces;
}

std::vector<Exchange> plan_exchanges(const PlacedGraph& placed, const Layout& layout, const Plan& plan) {
    const Graph& graph = placed.graph;
    const ValuePlacements& placements = placed.placements;
    std::vector<Exchange> exchanges;
    for (const int axis : in_order_of_sums(layout))
        for (std::size_t i = 0; i < graph.values().size(); ++i) {
            const PlannedValue& value = plan.values[i];
            if (value.memory != MemoryKind::gradients || value.offset < 0) continue;
            const auto at = static_cast<std::size_t>(axis);
            const Collective collective = redistribution(placements.produced[i][at], placements.used[i][at]);
            if (collective == Collective::none) continue;
            const bool scatters = collective == Collective::reduce_scatter && axis == layout.data_axis;
            if (collective != Collective::all_reduce && !scatters)
                throw ConfigError(
                    fmt::format("'{}' would need {} on mesh axis '{}': accumulated values are summed only",
                                graph.values()[i].name, name_of(collective), layout.mesh.axis(axis).name));
            const bool absent = !is_made_here(graph.values()[i], plan);
            const bool over_stages = axis == layout.pipeline_axis;
            if (value.local.shape.count() == 0 || (absent && !over_stages)) continue;
            const std::int64_t bytes = align_up(value.local.bytes());
            // What lies between two sums of several stages differs from stage to stage.
            const bool neighbour = !exchanges.empty() && !over_stages && exchanges.back().axis == axis &&
                                   exchanges.back().collective == collective &&
                                   exchanges.back().offset + exchanges.back().bytes == value.offset &&
                                   exchanges.back().bytes < layout.bucket_bytes;
            if (!neighbour) exchanges.push_back({collective, axis, value.offset, 0, {}, 0, absent});
            Exchange& bucket = exchanges.back();
            bucket.bytes += bytes;
            bucket.values.push_back(static_cast<ValueId>(i));
            // Over the other axes at the end: between two sums they would make the backward pass wait for the data
            // ranks.
            const std::size_t there = layout.shares_micro_batches(axis) ? calls_before(graph.values()[i], plan)
                                                                        : plan.calls(Phase::backward).size();
            bucket.after = std::max(bucket.after, there);
        }
    let_replicas_follow(layout, exchanges);
    std::stable_sort(exchanges.begin(), exchanges.end(),
                     [](const Exchange& a, const Exchange& b) { return a.after < b.after; });
    return exchanges;
}

} // namespace tessera
