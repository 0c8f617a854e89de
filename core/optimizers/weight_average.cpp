// SPDX-License-Identifier: Apache-2.0
// Key, states and node of the weights' average.
#include "core/optimizers/weight_average.hpp"

#include "core/optimizers/optimizer.hpp"
#include "core/optimizers/update_op.hpp"
#include "kernels/weight_average.hpp"

#include <algorithm>

namespace tessera {
namespace {

class AverageWeights final : public UpdateOp { // by gradients it reads the weights, and writes averages
public:
    explicit AverageWeights(std::size_t tensors) : UpdateOp(tensors, 0) {}
    std::string_view name() const override { return "average_weights"; }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::average_weights(s, pace(a), factor(a), gradients(a), weights(a)); }, stream);
    }
};

} // namespace

double ema_decay(const Config& config) {
    const double decay = config.get(training_ema_decay);
    if (!(decay >= 0 && decay < 1)) config.refuse(training_ema_decay.name, "must be at least 0 and below 1");
    return decay;
}

void append_weight_average(Graph& graph, double decay, ValueId factor) {
    const auto of_step = [decay](const StepState& state, const View& host) {
        const auto n = static_cast<double>(state.step + 1 - state.skipped_steps);
        *host.as<float>() = n <= 1 ? 1.0f : static_cast<float>(1 - std::min(decay, (1 + n) / (10 + n)));
    };
    const ValueId share = graph.step_input("ema.share", {{}, DType::f32}, of_step);
    std::vector<Learned> averages;
    for (const ValueId weight : graph.trained())
        averages.push_back({weight, graph.optimizer_state(weight_average_of(graph.value(weight).name), weight)});
    graph.apply(std::make_shared<AverageWeights>(averages.size()), "ema", update_inputs(share, factor, averages));
}

} // namespace tessera
