// SPDX-License-Identifier: Apache-2.0
// What one rank will do and hold, decided before anything runs: a pure function of graph, mesh, strategies, coordinate.
#pragma once

#include "core/graph/graph.hpp"
#include "parallel/layout/mesh.hpp"
#include "parallel/layout/redistribute.hpp"
#include "parallel/layout/schedule.hpp"
#include "parallel/layout/summation_tree.hpp"
#include "parallel/strategies/strategy.hpp"

#include <array>
#include <limits>
#include <memory>
#include <vector>

namespace tessera {

// The last two lie in the host's memory: batches on their way, and the copy that checkpoints are written from.
enum class MemoryKind { weights, gradients, optimizer, activations, workspace, communication, data, checkpoint };
inline constexpr std::size_t memory_kinds = 8;
std::string_view name_of(MemoryKind kind);

// Bytes of each kind that a rank allocates.
struct MemoryNeed {
    std::array<std::int64_t, memory_kinds> bytes{};

    std::int64_t& operator[](MemoryKind kind) { return bytes[static_cast<std::size_t>(kind)]; }
    std::int64_t operator[](MemoryKind kind) const { return bytes[static_cast<std::size_t>(kind)]; }
    std::int64_t total() const;
    std::int64_t where_the_stream_works() const; // all but what lies in the host's memory in any case
    // Two programs that take turns in the same memory.
    void grow_to(const MemoryNeed& other);
};

// Where the mesh lives and how the batch is cut. `data_axis` is the axis whose ranks share out the micro-batches, and
// what ZeRO shares out; of `replica_axis` they do so, too, and hold copies of it (hybrid sharding). The ranks of
// `pipeline_axis` share out the layers.
struct Layout {
    Mesh mesh{{}};
    std::vector<std::shared_ptr<const Strategy>> strategies; // one per axis of the mesh
    int data_axis = 0;
    int replica_axis = -1;  // outside the data axis; -1: there is none
    int pipeline_axis = -1; // likewise
    ScheduleKind schedule = ScheduleKind::one_f_one_b;
    int chunks_per_stage = 1;
    std::int64_t micro_batches = 1;                                       // of a step, over all data ranks
    bool rounds = false;                                                  // see Strategy::sums_every_micro_batch
    int prefetch = 0;                                                     // see plan/prefetch.cpp
    bool one_host = true;                                                 // all ranks can share memory
    bool reproducible = true;                                             // sums in the order of the summation tree
    std::int64_t bucket_bytes = std::numeric_limits<std::int64_t>::max(); // a bucket is closed once it holds as much

    int shard_ranks() const { return mesh.axis(data_axis).size; }
    int replicas() const { return replica_axis < 0 ? 1 : mesh.axis(replica_axis).size; }
    int data_ranks() const { return replicas() * shard_ranks(); }
    bool shares_micro_batches(int axis) const { return axis == data_axis || axis == replica_axis; }
    int stages() const { return pipeline_axis < 0 ? 1 : mesh.axis(pipeline_axis).size; }
    Pipeline pipeline(std::int64_t of_micro_batches, bool trains) const {
        if (stages() == 1) return {ScheduleKind::one_f_one_b, 1, 1, of_micro_batches, trains};
        return {schedule, stages(), chunks_per_stage, of_micro_batches, trains};
    }
};

// A value on this rank.
struct PlannedValue {
    Placements placements; // of an accumulated value: where the update phase finds it
    Box box;               // its part of the logical tensor; for values of a micro-batch, of one micro-batch
    Range run;             // the elements of its part that it holds, or updates: all but where an axis has Flat
    TensorType local;      // what lies in memory
    MemoryKind memory = MemoryKind::activations;
    std::int64_t offset = -1; // within that memory; -1: nobody ever needs it here
    int chunk = -1;           // of a pipeline: offset is within each of the frames of this chunk
};

struct Call { // of a node of the plan's graph
    std::int32_t node = 0;
    std::int64_t workspace_bytes = 0;
    Locality locality;
    std::int64_t ahead_of = -1; // it only begins here, and ends before this call of its phase; -1: it ends here
};

// A value that a pipeline's chunk makes and another stage takes.
struct StageMessage {
    ValueId value = no_value;
    int peer = 0;      // the other stage
    int channel = 0;   // messages of one channel keep their order
    bool lost = false; // it is not sent: what would be received is 0
};

// What one task of the schedule runs.
struct Part {
    Phase phase = Phase::forward;
    Work work = Work::forward;
    int chunk = 0; // of this stage
    Range calls{}; // of those of the phase
    std::vector<StageMessage> receives{};
    std::vector<StageMessage> sends{};
    bool reads_batch = false; // a micro-batch begins here: what is read from the data must be there
};

// A part at work on a micro-batch, which has a frame of its part's chunk meanwhile.
struct PlannedTask {
    int part = 0;
    std::int64_t micro_batch = 0; // of this rank's share; below 0: an idle round
    int frame = 0;
};

// Where a value goes that a part makes and a part of another chunk takes. Chunks are of the whole pipeline.
struct Route {
    ValueId value = no_value;
    int from = 0, to = 0;
    Work makes = Work::forward, takes = Work::forward;
    int channel = 0;
    bool lost = false;
};

// A message where all stages must take the messages in one order, since each waits for its partner (NCCL).
struct Transmission {
    std::size_t task = 0; // of plan.tasks, before which it comes; their number: after all
    bool sends = false;
    StageMessage message;
    int frame = 0;
};

// Memory for what a chunk keeps of a micro-batch from one part to the next: as often as it has micro-batches under way.
struct Frames {
    int count = 1;
    std::int64_t bytes = 0;  // of one
    std::int64_t offset = 0; // of the first, in the activations' memory
};

// A collective on neighbouring tensors of the gradients' memory: one bucket. It starts in the backward phase of the
// last micro-batch, when `after` of its calls are done: over the data ranks as soon as its tensors are there.
struct Exchange {
    Collective collective = Collective::none;
    int axis = 0;
    std::int64_t offset = 0;
    std::int64_t bytes = 0;
    std::vector<ValueId> values;
    std::size_t after = 0;
    bool absent = false; // other stages make it: this one adds nothing
};

struct Plan {
    std::vector<int> coordinate;             // of the rank, on the mesh's axes
    Graph graph;                             // the graph that was planned, and the collectives that its ops need
    std::array<std::vector<Call>, 4> phases; // by Phase
    std::vector<Part> parts;                 // forward and backward, in the order of their calls
    std::vector<PlannedTask> tasks;          // of a step
    std::vector<Route> routes;               // of all stages
    std::vector<Frames> frames;              // by chunk of this stage; none without a pipeline
    std::vector<ChunkTime> chunk_flops;      // of a micro-batch, by chunk of the whole pipeline
    std::vector<Exchange> exchanges;         // in the order in which they may start
    std::vector<PlannedValue> values;        // by ValueId
    MemoryNeed memory;                       // gradients: of all slots; data: not known here
    std::int64_t slot_bytes = 0;             // of the gradients' memory: one sum over micro-batches
    int slots = 1;                           // sums kept at once: see SummationTree
    Range share;                             // this rank's micro-batches; see stride
    std::int64_t stride = 1;                 // the i-th of them is number share.begin + i * stride
    std::int64_t idle_rounds = 0;            // in which it takes part for the other ranks' sake, before its share
    double flops_per_micro_batch = 0;        // of the whole model, forward and backward

    const std::vector<Call>& calls(Phase phase) const { return phases[static_cast<std::size_t>(phase)]; }
    // What nodes of a phase see of a value: of a gradient that is summed whole, the update sees this rank's run.
    TensorType seen(ValueId id, Phase phase) const;

    const PlannedValue& value(ValueId id) const { return values[static_cast<std::size_t>(id)]; }
};

// What an all-reduce works on: neighbours joined, and of what this rank updates a part of, that part alone.
struct SlotPiece { // of a slot of the gradients' memory
    std::int64_t offset;
    std::int64_t bytes;
};
std::vector<SlotPiece> pieces_of(const Exchange& exchange, const Plan& plan);

// The share of their time in which the stages wait for each other, as the chunks' operations have it. 0: no pipeline.
double bubble(const Plan& plan, const Layout& layout);

// The messages of a stage's step in an order in which no two stages wait for each other for ever: that of a step in
// which all work takes equally long.
std::vector<Transmission> transmissions_of(const Plan& plan, const Layout& layout, int stage);

// Throws ConfigError, with the layer's name, where something cannot be sharded as the strategies say. `stream` is asked
// what workspace its kernels need; nothing runs on it.
Plan make_plan(const Graph& graph, const Layout& layout, int rank, const Stream& stream);

// What the plans of all ranks have in common, and take most of their time for: the graph with its collectives, cut into
// the stages of a pipeline.
struct PlacedGraph;
struct Stages;
struct CutGraph {
    std::shared_ptr<const PlacedGraph> placed;
    std::shared_ptr<const Stages> stages;
};
CutGraph cut_graph(const Graph& graph, const Layout& layout);
Plan make_plan(const CutGraph& graph, const Layout& layout, int rank, const Stream& stream);

} // namespace tessera
