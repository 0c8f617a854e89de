// SPDX-License-Identifier: Apache-2.0
// Walks a plan: calls kernels and communicators, allocates nothing, decides nothing.
#pragma once

#include "core/plan/plan.hpp"
#include "core/run/memory.hpp"
#include "parallel/communication/groups.hpp"

#include <functional>

namespace tessera {

class Executor {
public:
    // All arguments must outlive the executor.
    Executor(const Graph& graph, const Layout& layout, const Plan& plan, const Memory& memory, Groups& groups,
             Stream& stream);

    Stream& stream() const { return stream_; }

    // A value's memory on this rank; of an accumulated value, in the slot that holds the finished sum.
    View view(ValueId id) const { return bind(id, 0); }

    // Runs what must be ready before the first micro-batch.
    void prepare(const StepState& state) { run(Phase::prepare, 0, state); }

    // Runs forward and backward on each micro-batch of this rank's share, after `next_batch` has filled the inputs, and
    // sums what is accumulated in the order of the summation tree.
    void run_micro_batches(StepState state, std::int64_t micro_batch_size, const std::function<void()>& next_batch);

    // Reduces over the ranks, then updates the weights.
    void update(const StepState& state) { run(Phase::update, 0, state); }

private:
    struct BoundCall {
        const Op* op;
        std::vector<View> inputs;
        std::vector<View> outputs;
        View workspace;
    };
    struct BoundExchange {
        const Exchange* exchange;
        View buffer;
    };
    using BoundAction = std::variant<BoundCall, BoundExchange>;

    View bind(ValueId id, int slot) const;
    BoundAction bind(const Action& action, int slot) const;
    void run(Phase phase, int slot, const StepState& state);
    void run(const BoundExchange& exchange);
    void merge(std::size_t into, std::size_t from);

    const Graph& graph_;
    const Layout& layout_;
    const Plan& plan_;
    const Memory& memory_;
    Groups& groups_;
    Stream& stream_;
    SummationTree tree_;
    std::vector<std::array<std::vector<BoundAction>, 4>> actions_; // by slot and phase
    std::vector<View> slots_;                                      // the accumulated values, whole
    std::vector<std::int64_t> summed_;                             // micro-batches in each slot in use
};

} // namespace tessera
