// SPDX-License-Identifier: Apache-2.0
// Pairs of values of two plans of one model.
#include "core/run/twins.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <map>

namespace tessera {

Twins::Twins(const Program& many, const Program& one)
    : many_(many), one_(one), twins_(many.plan.values.size(), no_value), over_data_axis_(many.plan.values.size()),
      owed_(many.plan.values.size()) {
    const std::size_t common = one.model.graph.values().size();
    for (std::size_t i = 0; i < common; ++i) {
        const auto id = static_cast<ValueId>(i);
        if (i >= twins_.size() || many.plan.graph.value(id).name != one.plan.graph.value(id).name)
            throw InternalError(
                fmt::format("value {}, '{}' on one rank, is another on many", i, one.plan.graph.value(id).name));
        twins_[i] = id;
    }
    find_repeated();
    follow_transfers();
    find_sums();
}

// What is computed again has the name of what it repeats (graph/recompute.cpp).
void Twins::find_repeated() {
    constexpr std::string_view again = ".again";
    std::map<std::string_view, ValueId> named;
    for (std::size_t i = 0; i < one_.model.graph.values().size(); ++i)
        named.emplace(one_.plan.graph.value(static_cast<ValueId>(i)).name, static_cast<ValueId>(i));
    for (const Node& node : many_.plan.graph.nodes()) {
        if (!node.repeated) continue;
        for (const ValueId output : node.outputs) {
            std::string_view name = many_.plan.graph.value(output).name;
            if (!name.ends_with(again)) continue;
            name.remove_suffix(again.size());
            if (const auto found = named.find(name); found != named.end())
                twins_[static_cast<std::size_t>(output)] = found->second;
        }
    }
}

// A collective's input and output are one logical tensor. What is scattered before it is accumulated was made for that,
// so that its twin is found from behind.
void Twins::follow_transfers() {
    for (bool more = true; more;) {
        more = false;
        for (const Node& node : many_.plan.graph.nodes()) {
            if (!node.op->transfer()) continue;
            ValueId& from = twins_[static_cast<std::size_t>(node.inputs[0])];
            ValueId& to = twins_[static_cast<std::size_t>(node.outputs[0])];
            if ((from == no_value) == (to == no_value)) continue;
            (from == no_value ? from : to) = from == no_value ? to : from;
            more = true;
        }
    }
}

void Twins::find_sums() {
    for (const Node& node : many_.plan.graph.nodes()) {
        const std::optional<Op::Transfer> transfer = node.op->transfer();
        if (!transfer || (node.phase != Phase::forward && node.phase != Phase::backward)) continue;
        const bool sums =
            transfer->collective == Collective::all_reduce || transfer->collective == Collective::reduce_scatter;
        over_data_axis_[static_cast<std::size_t>(node.outputs[0])] =
            (sums && many_.layout.shares_micro_batches(transfer->axis)) ||
            over_data_axis_[static_cast<std::size_t>(node.inputs[0])];
    }
    for (const Exchange& exchange : many_.plan.exchanges)
        for (const ValueId id : exchange.values)
            if (!many_.layout.shares_micro_batches(exchange.axis)) owed_[static_cast<std::size_t>(id)] = true;
}

bool Twins::in_micro_batch(ValueId id) const {
    const auto index = static_cast<std::size_t>(id);
    const PlannedValue& value = many_.plan.value(id);
    if (of(id) == no_value || value.offset < 0 || !value.box.held || over_data_axis_[index] || owed_[index])
        return false;
    for (std::size_t axis = 0; axis < value.placements.size(); ++axis) // each data rank has micro-batches of its own
        if (!many_.layout.shares_micro_batches(static_cast<int>(axis)) &&
            value.placements[axis] == Placement::partial())
            return false;
    return true;
}

int Twins::layer_of(ValueId id) const {
    if (of(id) == no_value) return -1;
    const Graph& graph = one_.plan.graph;
    const Value& value = graph.value(of(id));
    if (value.parameter) return value.parameter->layer;
    return value.producer < 0 ? -1 : graph.nodes()[static_cast<std::size_t>(value.producer)].layer;
}

} // namespace tessera
