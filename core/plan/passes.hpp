// SPDX-License-Identifier: Apache-2.0
// The passes that make a plan, in their order. Private to core/plan.
#pragma once

#include "core/plan/plan.hpp"

namespace tessera {

// Where a value is: as its producer leaves it, and as its users find it. They differ for what is summed over ranks
// between the micro-batches and the update.
struct ValuePlacements {
    std::vector<Placements> produced; // by ValueId
    std::vector<Placements> used;
};

// The graph with the collectives that its ops need to run where the strategies want them.
struct PlacedGraph {
    Graph graph;
    ValuePlacements placements;
};

// 1. Propagates placements through the graph by each op's own rules, one mesh axis at a time.
PlacedGraph place_graph(const Graph& graph, const Layout& layout);

// 2. The nodes that run, in order: by phase, then as appended. A node whose outputs nobody needs is left out.
std::vector<std::int32_t> live_nodes(const Graph& graph);

// 3. Gives every value an offset in the memory of its kind. plan.values holds local types and kinds already.
void assign_memory(const Graph& graph, const std::vector<std::int32_t>& order, Plan& plan);

// 4. The collectives on accumulated values, neighbours joined into buckets. plan.phases holds all calls already.
std::vector<Exchange> plan_exchanges(const PlacedGraph& placed, const Layout& layout, const Plan& plan);

} // namespace tessera
