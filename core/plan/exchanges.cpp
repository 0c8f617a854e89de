// SPDX-License-Identifier: Apache-2.0
// Collectives on what was accumulated over the micro-batches: found value by value, joined where they are neighbours.
#include "core/plan/passes.hpp"
#include "kernels/error.hpp"
#include "kernels/memory.hpp"

#include <fmt/format.h>

namespace tessera {

std::vector<Exchange> plan_exchanges(const Graph& graph, const Layout& layout, const ValuePlacements& placements,
                                     const Plan& plan) {
    std::vector<Exchange> exchanges;
    for (int axis = 0; axis < layout.mesh.axis_count(); ++axis)
        for (std::size_t i = 0; i < graph.values().size(); ++i) {
            const PlannedValue& value = plan.values[i];
            if (value.memory != MemoryKind::gradients || value.offset < 0) continue;
            const auto at = static_cast<std::size_t>(axis);
            const Collective collective = redistribution(placements.produced[i][at], placements.used[i][at]);
            if (collective == Collective::none) continue;
            if (collective != Collective::all_reduce)
                throw ConfigError(fmt::format("'{}' would need {} on mesh axis '{}': only all_reduce is planned for "
                                              "accumulated values",
                                              graph.values()[i].name, name_of(collective),
                                              layout.mesh.axis(axis).name));
            const std::int64_t bytes = align_up(value.local.bytes());
            const bool neighbour = !exchanges.empty() && exchanges.back().axis == axis &&
                                   exchanges.back().collective == collective &&
                                   exchanges.back().offset + exchanges.back().bytes == value.offset;
            if (!neighbour) exchanges.push_back({collective, axis, value.offset, 0, {}});
            exchanges.back().bytes += bytes;
            exchanges.back().values.push_back(static_cast<ValueId>(i));
        }
    return exchanges;
}

} // namespace tessera
