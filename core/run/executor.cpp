// SPDX-License-Identifier: Apache-2.0
// The executor: all views are bound to memory once; a step then walks lists.
#include "core/run/executor.hpp"

#include "kernels/elementwise.hpp"
#include "kernels/error.hpp"

namespace tessera {

Executor::Executor(const Graph& graph, const Layout& layout, const Plan& plan, const Memory& memory, Groups& groups,
                   Stream& stream)
    : graph_(graph), layout_(layout), plan_(plan), memory_(memory), groups_(groups), stream_(stream),
      tree_(layout.tree()) {
    for (int slot = 0; slot < plan.slots; ++slot) {
        actions_.emplace_back();
        for (std::size_t phase = 0; phase < plan.phases.size(); ++phase) {
            const bool once =
                phase == static_cast<std::size_t>(Phase::prepare) || phase == static_cast<std::size_t>(Phase::update);
            if (once && slot > 0) continue;
            for (const Action& action : plan.phases[phase])
                actions_.back()[phase].push_back(bind(action, slot));
        }
        slots_.push_back(memory.view(MemoryKind::gradients, slot * plan.slot_bytes,
                                     {{plan.slot_bytes / bytes_of(DType::f32)}, DType::f32}));
    }
    summed_.reserve(static_cast<std::size_t>(plan.slots) + 1);
}

View Executor::bind(ValueId id, int slot) const {
    const PlannedValue& value = plan_.value(id);
    const std::int64_t offset = value.memory == MemoryKind::gradients ? slot * plan_.slot_bytes : 0;
    return memory_.view(value.memory, offset + value.offset, value.local);
}

Executor::BoundAction Executor::bind(const Action& action, int slot) const {
    if (const auto* exchange = std::get_if<Exchange>(&action))
        return BoundExchange{exchange, memory_.view(MemoryKind::gradients, exchange->offset,
                                                    {{exchange->bytes / bytes_of(DType::f32)}, DType::f32})};
    const Call& call = std::get<Call>(action);
    const Node& node = graph_.nodes()[static_cast<std::size_t>(call.node)];
    BoundCall bound{node.op.get(), {}, {}, memory_.workspace(call.workspace_bytes)};
    for (const ValueId input : node.inputs)
        bound.inputs.push_back(bind(input, slot));
    for (const ValueId output : node.outputs)
        bound.outputs.push_back(bind(output, slot));
    return bound;
}

void Executor::run(Phase phase, int slot, const StepState& state) {
    for (const BoundAction& action : actions_[static_cast<std::size_t>(slot)][static_cast<std::size_t>(phase)]) {
        if (const auto* call = std::get_if<BoundCall>(&action))
            call->op->run(stream_, {call->inputs, call->outputs, call->workspace, state});
        else
            run(std::get<BoundExchange>(action));
    }
}

void Executor::run(const BoundExchange& exchange) {
    Communicator& communicator = groups_.axis(exchange.exchange->axis);
    if (layout_.reproducible && exchange.exchange->axis == layout_.data_axis)
        communicator.tree_reduce(stream_, exchange.buffer, tree_);
    else
        communicator.all_reduce(stream_, exchange.buffer, Reduction::sum);
}

void Executor::merge(std::size_t into, std::size_t from) {
    std::visit([&](auto& stream) { kernels::add(stream, slots_[into], slots_[from], slots_[into]); }, stream_);
    summed_[into] += summed_[from];
    summed_.resize(from);
}

// A binary counter: each micro-batch goes to the first free slot; neighbours that sum equally many are merged. Without
// the promise of equal bits, two slots do: a running sum and the newcomer.
void Executor::run_micro_batches(StepState state, std::int64_t micro_batch_size,
                                 const std::function<void()>& next_batch) {
    summed_.clear();
    for (std::int64_t micro_batch = plan_.share.begin; micro_batch < plan_.share.end; ++micro_batch) {
        next_batch();
        state.first_sample = micro_batch * micro_batch_size;
        const auto slot = static_cast<int>(summed_.size());
        run(Phase::forward, slot, state);
        run(Phase::backward, slot, state);
        summed_.push_back(1);
        while (summed_.size() > 1 &&
               (!layout_.reproducible || summed_[summed_.size() - 2] == summed_[summed_.size() - 1]))
            merge(summed_.size() - 2, summed_.size() - 1);
    }
    while (summed_.size() > 1)
        merge(summed_.size() - 2, summed_.size() - 1);
}

} // namespace tessera
