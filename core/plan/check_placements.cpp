// SPDX-License-Identifier: Apache-2.0
// What two axes of the mesh together make impossible, which each alone does not see.
#include "core/plan/passes.hpp"
#include "kernels/error.hpp"

#include <fmt/format.h>

namespace tessera {
namespace {

// A dim that two axes cut can be put together again from the inner axis outwards only. An exchange over the outer axis
// deals out what the inner one has left, in another order than the dim's: heads have none.
void check_order_of_cuts(const PlacedGraph& placed, const Layout& layout, const Node& node, int outer, int inner) {
    for (const ValueId id : {node.inputs[0], node.outputs[0]}) {
        const Placements& at = placed.placements.used[static_cast<std::size_t>(id)];
        const Placement& cut = at[static_cast<std::size_t>(outer)];
        if (cut.kind != Placement::Kind::shard || cut != at[static_cast<std::size_t>(inner)]) continue;
        const std::int64_t size = placed.graph.value(id).type.shape[cut.value];
        const int ranks = layout.mesh.axis(outer).size * layout.mesh.axis(inner).size;
        if (node.op->transfer()->collective != Collective::all_to_all || size % ranks != 0)
            throw ConfigError(
                fmt::format("dim {} of '{}' ({}) is cut by the mesh axes '{}' and '{}': {} over the outer "
                            "one has no way",
                            cut.value, placed.graph.value(id).name, size, layout.mesh.axis(outer).name,
                            layout.mesh.axis(inner).name, node.op->name()));
    }
}

void check_order_of_cuts(const PlacedGraph& placed, const Layout& layout) {
    for (const Node& node : placed.graph.nodes())
        if (const auto transfer = node.op->transfer())
            for (int inner = transfer->axis + 1; inner < layout.mesh.axis_count(); ++inner)
                check_order_of_cuts(placed, layout, node, transfer->axis, inner);
}

// What another axis cuts into runs can be summed, but not gathered or cut: a run of a part is no part of a run.
void check_runs(const PlacedGraph& placed, const Layout& layout) {
    for (const Node& node : placed.graph.nodes()) {
        const std::optional<Op::Transfer> transfer = node.op->transfer();
        if (!transfer || transfer->collective == Collective::all_reduce) continue;
        for (int axis = 0; axis < layout.mesh.axis_count(); ++axis)
            for (const ValueId id : {node.inputs[0], node.outputs[0]})
                if (axis != transfer->axis &&
                    placed.placements.produced[static_cast<std::size_t>(id)][static_cast<std::size_t>(axis)] ==
                        Placement::flat())
                    throw ConfigError(
                        fmt::format("'{}' is cut into runs by the mesh axis '{}': {} over '{}' has no way",
                                    placed.graph.value(id).name, layout.mesh.axis(axis).name, node.op->name(),
                                    layout.mesh.axis(transfer->axis).name));
    }
}

} // namespace

void check_placements(const PlacedGraph& placed, const Layout& layout) {
    check_order_of_cuts(placed, layout);
    check_runs(placed, layout);
}

} // namespace tessera
