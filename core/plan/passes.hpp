// SPDX-License-Identifier: Apache-2.0
// The passes that make a plan, in their order. Private to core/plan.
#pragma once

#include "core/plan/plan.hpp"

namespace tessera {

inline bool of_micro_batch(const Node& node) { return node.phase == Phase::forward || node.phase == Phase::backward; }

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

// ConfigError for collectives that have no way because another axis cuts the same tensor. Called by place_graph.
void check_placements(const PlacedGraph& placed, const Layout& layout);

// Which part of a pipeline does what. Without a pipeline all nodes are of chunk 0 and stage 0.
struct Stages {
    std::vector<int> chunk;             // by node: of the whole pipeline; -1: a node of prepare or update
    std::vector<int> stage;             // by node: that runs it; -1: all do
    std::vector<bool> weights;          // by node: left for Work::weights
    std::vector<ChunkTime> chunk_flops; // by chunk
};

// 2. Cuts the layers into stages of even work, and adds what leads weights to other stages that use them and sums over
// the stages in the update.
Stages cut_stages(PlacedGraph& placed, const Layout& layout);

// What leads past a chunk goes by way of it, where frames do not keep it: called by cut_graph behind cut_stages.
void pass_values_on(PlacedGraph& placed, const Layout& layout, Stages& stages);

// 3. The nodes that run, in order: by phase, then as appended. A node whose outputs nobody needs is left out.
std::vector<std::int32_t> live_nodes(const Graph& graph);

// Those of this stage, part by part: fills plan.parts, but for the ranges of their calls, and plan.tasks.
std::vector<std::int32_t> plan_parts(const Graph& graph, const Stages& stages, const Layout& layout, int stage,
                                     Plan& plan);

// The same, and for each node Call::ahead_of.
struct Order {
    std::vector<std::int32_t> nodes;
    std::vector<std::int64_t> ahead_of;
};

// 4. Weights that are gathered where a layer computes are so `layout.prefetch` layers before.
Order gather_ahead(const Graph& graph, const Layout& layout, const std::vector<Part>& parts,
                   const std::vector<std::int32_t>& nodes);

// 5. Gives every value an offset in the memory of its kind. plan.values holds local types and kinds already.
void assign_memory(const Graph& graph, const std::vector<std::int32_t>& order, Plan& plan);

// 6. The collectives on accumulated values, neighbours joined into buckets. plan.phases holds all calls already.
std::vector<Exchange> plan_exchanges(const PlacedGraph& placed, const Layout& layout, const Plan& plan);

} // namespace tessera
