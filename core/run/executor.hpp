// SPDX-License-Identifier: Apache-2.0
// Walks a plan: calls kernels and communicators, allocates nothing, decides nothing.
#pragma once

#include "core/plan/plan.hpp"
#include "core/run/memory.hpp"
#include "core/run/turns.hpp"
#include "kernels/replay.hpp"
#include "parallel/communication/groups.hpp"

#include <chrono>
#include <functional>
#include <map>

namespace tessera {

class Executor {
public:
    // All arguments must outlive the executor. With `replay`, a GPU records each part of a step once and replays it:
    // prepare, each kind of turn at a micro-batch, and update.
    Executor(const Layout& layout, const Plan& plan, const Memory& memory, Groups& groups, Stream& stream,
             bool replay = false);

    Stream& stream() const { return stream_; }

    // A value's memory on this rank; of an accumulated value, in the slot that holds the finished sum.
    View view(ValueId id) const { return bind(id, {}); }

    // What is read from the data for the micro-batch that begins, in the order of the graph. Views without memory are
    // of what this rank does not need.
    std::span<const View> batch() const { return batch_; }

    // Runs what must be ready before the first micro-batch.
    void prepare(const StepState& state);

    // Runs forward and backward on each micro-batch of this rank's share, after `next_batch` has filled batch(), sums
    // what is accumulated in the order of the summation tree, and over the ranks: bucket by bucket, as soon as the
    // backward pass of the last micro-batch has finished it, on a GPU beside the rest of that pass.
    void run_micro_batches(StepState state, std::int64_t micro_batch_size, const std::function<void()>& next_batch);

    // Updates the weights.
    void update(const StepState& state);

    // Spent waiting for other stages of a pipeline since the executor was made.
    double seconds_waited() const { return seconds_waited_; }
    // Spent gathering weights where their layer computes, and waiting for those that were gathered ahead. On CPUs.
    double seconds_waited_for_weights() const { return seconds_waited_for_weights_; }
    // Looks on: called when a node's kernels have been handed to the stream, with where its outputs lie, and with the
    // place of the micro-batch in this rank's share (-1: none, or a round for the other ranks' sake); and when a value
    // has come from another stage, with the node that makes it there, outputs of which it has not having no memory.
    // While somebody looks on, nothing is replayed.
    using Watcher = std::function<void(const Node& node, std::int64_t micro_batch, std::span<const View> outputs)>;
    void watch(Watcher watcher) { watcher_ = std::move(watcher); }

private:
    struct BoundCall {
        const Node* node;
        std::vector<View> inputs;
        std::vector<View> outputs;
        View workspace;
        const Locality* locality;
        bool begins = false;     // ends later
        bool gathers = false;    // weights, and no call computes meanwhile
        std::size_t awaited = 0; // so many of those that have begun end before it
    };
    using Calls = std::span<const BoundCall>;
    struct StepInput {
        const StepFunction* of_step;
        Phase phase;
        View view;
        View host;
    };

    View bind(ValueId id, Place place, Phase phase = Phase::backward) const; // as nodes of the phase see it
    BoundCall bind(const Call& call, Place place) const;
    void bind_part(int part, Place place);
    Calls bound(int part, Place place) const { return bound_.at({part, place}); }
    const Part& part(int index) const { return plan_.parts[static_cast<std::size_t>(index)]; }
    void find_step_inputs();
    void end_uploads();
    void write_step_inputs(const StepState& state, Phase first, Phase last);
    void bind_batch(int frame);

    void run(Calls calls);
    void run(const BoundCall& call);
    void begin(const BoundCall& call);
    void end_begun(std::size_t count);
    using Clock = std::chrono::steady_clock;
    void waited_for_weights_since(Clock::time_point start);
    void clear_batch();
    void run_turn(const Turn& turn);
    void run_part(int part, const Turn& turn);
    bool is_late(int part, const Sums::OfExchange& one) const;
    void run_late_exchanges(const Turn& turn);
    bool by_messages() const { return std::holds_alternative<CpuStream>(stream_); }
    void transmit(std::size_t until_task);
    void begin_micro_batch(const Turn& turn);
    void receive(const Turn& turn);
    static void lose(Stream& stream, const View& view, bool sends);
    void watch_received(const Turn& turn);
    void send(const Turn& turn);
    void finish(std::vector<Communicator::Ticket>& tickets);
    template <class Work> void replay(Replay& part, const Work& work);
    void merge(const Turn& turn, const std::vector<SlotPiece>& pieces);
    void reduce(std::size_t exchange);
    const Graph& graph() const { return plan_.graph; }
    View slot_view(std::size_t slot, SlotPiece piece) const;
    Communicator& stages() { return groups_.axis(layout_.pipeline_axis); }

    const Layout& layout_;
    const Plan& plan_;
    const Memory& memory_;
    Groups& groups_;
    FlightRecorder& recorder_; // told what is under way
    Stream& stream_;
    Stream exchange_stream_; // on a GPU a queue of its own
    Stream message_stream_;  // likewise
    Stream gather_stream_;   // likewise
    struct Sum {             // of an exchange
        std::vector<View> pieces;
        const SummationTree* tree; // null: in any order
        std::string name{};
    };
    SummationTree tree_, tree_of_replicas_;                         // of the data ranks
    std::vector<Sum> exchanged_;                                    // by exchange
    std::map<std::pair<int, Place>, std::vector<BoundCall>> bound_; // of the parts
    std::vector<BoundCall> prepare_, update_;
    std::vector<Accumulation> accumulation_;  // by micro-batch of this rank's share
    std::vector<Sums> sums_;                  // by part
    std::vector<Transmission> transmissions_; // on a GPU
    std::vector<Turn> turns_;
    std::vector<ValueId> read_; // from the data
    std::vector<View> batch_;
    using Tickets = std::map<std::pair<int, int>, std::vector<Communicator::Ticket>>;
    Tickets sent_;     // by chunk and frame
    Tickets expected_; // by part and frame
    Buffer staging_;   // of the step inputs, on their way to a GPU
    std::vector<StepInput> step_inputs_;
    struct Begun {
        const BoundCall* call;
        std::int64_t ticket;
    };
    std::vector<Begun> begun_;      // and not ended, in their order
    Watcher watcher_;               // none: nobody looks on
    std::int64_t micro_batch_ = -1; // under way
    bool records_;
    std::vector<Replay> replays_; // prepare, update, and what turns need
    double seconds_waited_ = 0;
    double seconds_waited_for_weights_ = 0;
    std::size_t transmitted_ = 0; // in this step
};

} // namespace tessera
