// SPDX-License-Identifier: Apache-2.0
// Walks a plan: calls kernels and communicators, allocates nothing, decides nothing.
#pragma once

#include "core/plan/plan.hpp"
#include "core/run/memory.hpp"
#include "kernels/replay.hpp"
#include "parallel/communication/groups.hpp"

#include <functional>

namespace tessera {

class Executor {
public:
    // All arguments must outlive the executor. With `replay`, a GPU records each part of a step once and replays it:
    // prepare, each kind of micro-batch, and update.
    Executor(const Layout& layout, const Plan& plan, const Memory& memory, Groups& groups, Stream& stream,
             bool replay = false);

    Stream& stream() const { return stream_; }

    // A value's memory on this rank; of an accumulated value, in the slot that holds the finished sum.
    View view(ValueId id) const { return bind(id, 0); }

    // Runs what must be ready before the first micro-batch.
    void prepare(const StepState& state);

    // Runs forward and backward on each micro-batch of this rank's share, after `next_batch` has filled the inputs,
    // sums what is accumulated in the order of the summation tree, and over the ranks: bucket by bucket, as soon as the
    // backward pass of the last micro-batch has finished it, on a GPU beside the rest of that pass.
    void run_micro_batches(StepState state, std::int64_t micro_batch_size, const std::function<void()>& next_batch);

    // Updates the weights.
    void update(const StepState& state);

    // Looks on: called when a node's kernels have been handed to the stream, with where its outputs lie, and with the
    // place of the micro-batch in this rank's share (-1: none, or a round for the other ranks' sake). Not with
    // `replay`.
    using Watcher = std::function<void(const Node& node, std::int64_t micro_batch, std::span<const View> outputs)>;
    void watch(Watcher watcher) { watcher_ = std::move(watcher); }

private:
    struct BoundCall {
        const Node* node;
        std::vector<View> inputs;
        std::vector<View> outputs;
        View workspace;
        const Locality* locality;
    };
    using Calls = std::span<const BoundCall>;
    struct Piece { // of a slot
        std::int64_t offset;
        std::int64_t bytes;
    };
    struct Merge { // slot `into` += slot `from`
        std::size_t into;
        std::size_t from;
        friend bool operator==(const Merge&, const Merge&) = default;
    };
    struct MicroBatch {
        std::size_t slot;
        std::vector<Merge> merges; // after it
        bool last;
        std::size_t replay; // of replays_: the same for micro-batches of which nothing differs
    };

    struct StepInput {
        const StepFunction* of_step;
        Phase phase;
        View view;
        View host;
    };

    View bind(ValueId id, int slot, Phase phase = Phase::backward) const; // as nodes of the phase see it
    BoundCall bind(const Call& call, int slot) const;
    Calls bound(std::size_t slot, Phase phase) const { return calls_[slot][static_cast<std::size_t>(phase)]; }
    void plan_merges();
    void plan_merges_of_pieces();
    void find_step_inputs();
    void write_step_inputs(const StepState& state, Phase first, Phase last);

    void run(Calls calls);
    void run_idle_round(const StepState& state);
    void run_micro_batch(const MicroBatch& micro_batch);
    void run_last_backward(const MicroBatch& micro_batch);
    template <class Work> void replay(Replay& part, const Work& work);
    void merge(const std::vector<Merge>& merges, Piece piece);
    void reduce(const Exchange& exchange);
    const Graph& graph() const { return plan_.graph; }
    View slot_view(std::size_t slot, Piece piece) const;

    const Layout& layout_;
    const Plan& plan_;
    const Memory& memory_;
    Groups& groups_;
    Stream& stream_;
    Stream exchange_stream_; // on a GPU a queue of its own
    SummationTree tree_;
    std::vector<std::array<std::vector<BoundCall>, 4>> calls_; // by slot and phase
    std::vector<MicroBatch> micro_batches_;                    // of this rank's share
    std::vector<std::vector<Piece>> merged_before_;            // each exchange; and what no exchange has
    Buffer staging_;                                           // of the step inputs, on their way to a GPU
    std::vector<StepInput> step_inputs_;
    Watcher watcher_;               // none: nobody looks on
    std::int64_t micro_batch_ = -1; // under way
    bool records_;
    std::vector<Replay> replays_; // prepare, update, and what micro-batches need
};

} // namespace tessera
