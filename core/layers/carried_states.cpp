// SPDX-License-Identifier: Apache-2.0
// A row more than there are streams stays 0: an epoch begins with it.
#include "core/layers/carried_states.hpp"

#include "core/ops/ops.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera::layers {

// Another number of streams is another table: a run that is resumed with it begins anew.
CarriedStates::State CarriedStates::take(const std::string& name, std::int64_t rows, std::int64_t width) {
    const ValueId table =
        graph_.optimizer_state(fmt::format("optimizer.{}.{}.{}", word_, streams_, name), {streams_ + 1, width}, 0);
    const ValueId from = rows_of_table(word_ + ".rows_before", rows, true);
    return {table, ops::embedding(graph_, name + ".before", from, table, streams_ + 1)};
}

void CarriedStates::leave(const std::string& name, const State& state, ValueId after) {
    const std::int64_t rows = graph_.value(after).type.shape[0];
    const ValueId to = rows_of_table(word_ + ".rows_after", rows, false);
    const ValueId left = ops::embedding_gradient(graph_, name + ".after", to, after, state.table, streams_ + 1);
    graph_.accumulate(left);
    if (trains_) {
        left_.push_back({state.table, left});
        return;
    }
    const Graph::PhaseGuard update(graph_, Phase::update);
    ops::carry_state(graph_, name + ".carry", {state.table, left}, no_value);
}

// A round without a micro-batch has rows of no stream, and its sum does not count.
ValueId CarriedStates::rows_of_table(const std::string& name, std::int64_t rows, bool reads) {
    const std::int64_t streams = streams_, steps = steps_per_epoch_;
    return graph_.step_input(name, {{rows}, DType::i32}, [=](const StepState& state, const View& host) {
        const bool begins = reads && (steps > 0 ? state.step % steps == 0 : state.step == 0);
        for (std::int64_t row = 0; row < rows; ++row)
            host.as<std::int32_t>()[row] = static_cast<std::int32_t>(
                begins ? streams : std::clamp<std::int64_t>(state.first_sample + row, 0, streams - 1));
    });
}

} // namespace tessera::layers
