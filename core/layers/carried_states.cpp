// SPDX-License-Identifier: Apache-2.0
// A row more than there are streams stays 0: an epoch begins with it.
#include "core/layers/carried_states.hpp"

#include "core/ops/ops.hpp"
#include "kernels/copy.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera::layers {
namespace {

class CarryState final : public Op { // state, what the step has left ->
public:
    std::string_view name() const override { return "carry_state"; }
    std::vector<TensorType> infer(std::span<const TensorType>) const override { return {}; }
    std::vector<int> writes() const override { return {0}; }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::cast(s, a.inputs[1], a.inputs[0]); }, stream);
    }
};

} // namespace

// Another number of streams is another table: a run that is resumed with it begins anew.
CarriedStates::State CarriedStates::take(const std::string& name, std::int64_t rows, std::int64_t width) {
    const ValueId table =
        graph_.optimizer_state(fmt::format("optimizer.{}.{}.{}", purpose_, streams_, name), {streams_ + 1, width}, 0);
    const ValueId from = rows_of_table(purpose_ + ".rows_before", rows, true);
    return {table, ops::embedding(graph_, name + ".before", from, table, streams_ + 1)};
}

void CarriedStates::leave(const std::string& name, const State& state, ValueId after) {
    const std::int64_t rows = graph_.value(after).type.shape[0];
    const ValueId to = rows_of_table(purpose_ + ".rows_after", rows, false);
    const ValueId left = ops::embedding_gradient(graph_, name + ".after", to, after, state.table, streams_ + 1);
    graph_.accumulate(left);
    const Graph::PhaseGuard update(graph_, Phase::update);
    graph_.apply(std::make_shared<CarryState>(), name + ".carry", {state.table, left});
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
