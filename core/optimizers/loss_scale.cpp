// SPDX-License-Identifier: Apache-2.0
// Keys, states and nodes of the loss scale.
#include "core/optimizers/loss_scale.hpp"

#include "kernels/elementwise.hpp"

#include <cmath>
#include <fmt/format.h>

namespace tessera {
namespace {

class GradientScale final : public Op { // scale -> factor * scale
public:
    explicit GradientScale(float factor) : factor_(factor) {}
    std::string_view name() const override { return "gradient_scale"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[0]}; }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::scale(s, a.inputs[0], factor_, a.outputs[0]); }, stream);
    }

private:
    float factor_;
};

class Unscale final : public Op { // square sum, scale, good steps, skipped steps -> norm, factor
public:
    Unscale(double max_norm, const kernels::LossScaling& settings)
        : max_norm_(static_cast<float>(max_norm)), settings_(settings) {}
    std::string_view name() const override { return "unscale"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[0], in[0]}; }
    std::vector<int> writes() const override { return {1, 2, 3}; }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::unscale(s, a.inputs[0], max_norm_, settings_, {a.inputs[1], a.inputs[2], a.inputs[3]},
                                 a.outputs[0], a.outputs[1]);
            },
            stream);
    }

private:
    float max_norm_;
    kernels::LossScaling settings_;
};

float power_of_two(const Config& config, const Key<double>& key, double least, double most) {
    const double value = config.get(key);
    int exponent = 0;
    if (!(value >= least && value <= most) || std::frexp(value, &exponent) != 0.5)
        config.refuse(key.name, fmt::format("expected a power of two from {} to {}", least, most));
    return static_cast<float>(value);
}

} // namespace

LossScale append_loss_scale(Graph& graph, const Config& config, std::int64_t units_per_step) {
    constexpr std::int64_t most_steps = 1 << 24; // a float counts no further
    LossScale made;
    made.settings = {.growth = power_of_two(config, loss_scale_growth, 1, 65536),
                     .backoff = power_of_two(config, loss_scale_backoff, 0x1p-16, 0.5),
                     .interval = config.get(loss_scale_interval)};
    if (made.settings.interval < 1 || made.settings.interval > most_steps)
        config.refuse(loss_scale_interval.name, fmt::format("expected 1 to {}", most_steps));
    const float start = power_of_two(config, loss_scale_start, 1, kernels::largest_loss_scale);
    made.scale = graph.optimizer_state("optimizer.loss_scale", {}, start);
    made.good_steps = graph.optimizer_state("optimizer.good_steps", {}, 0);
    made.skipped_steps = graph.optimizer_state("optimizer.skipped_steps", {}, 0);
    const Graph::PhaseGuard prepare(graph, Phase::prepare);
    const float factor = 1.0f / static_cast<float>(units_per_step);
    made.of_gradient = graph.apply_one(std::make_shared<GradientScale>(factor), "gradient_scale", {made.scale});
    return made;
}

ValueId append_weighted_scale(Graph& graph, std::string name, const LossScale& loss_scale, double weight) {
    const Graph::PhaseGuard prepare(graph, Phase::prepare);
    return graph.apply_one(std::make_shared<GradientScale>(static_cast<float>(weight)), std::move(name),
                           {loss_scale.of_gradient});
}

std::vector<ValueId> append_unscale(Graph& graph, const LossScale& loss_scale, ValueId square_sum, double max_norm) {
    return graph.apply(std::make_shared<Unscale>(max_norm, loss_scale.settings), "clip",
                       {square_sum, loss_scale.scale, loss_scale.good_steps, loss_scale.skipped_steps});
}

} // namespace tessera
