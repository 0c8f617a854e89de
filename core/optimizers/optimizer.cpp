// SPDX-License-Identifier: Apache-2.0
// The list of optimizers, and what they share: the gradient norm is a sum over fixed blocks of each logical tensor, in
// a fixed order, so that it has the same bits however the work is spread.
#include "core/optimizers/optimizer.hpp"

#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"
#include "kernels/reduce.hpp"
#include "kernels/update.hpp"

#include <fmt/format.h>

namespace tessera {
namespace {

class SquareSums final : public Op { // gradients -> for each, sums of squares of its blocks
public:
    std::string_view name() const override { return "square_sums"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        const std::int64_t block = kernels::square_sum_block;
        std::vector<TensorType> sums;
        for (const TensorType& gradient : in)
            sums.push_back({{(gradient.shape.count() + block - 1) / block}, DType::f32});
        return sums;
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::square_sums(s, a.inputs, a.outputs); }, stream);
    }
};

class Total final : public Op { // any number of vectors -> the sum of all their elements
public:
    std::string_view name() const override { return "total"; }
    std::vector<TensorType> infer(std::span<const TensorType>) const override { return {{{}, DType::f32}}; }
    std::int64_t workspace_bytes(const Stream&, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return static_cast<std::int64_t>(in.size()) * bytes_of(DType::f32);
    }
    void run(Stream& stream, const Operands& a) const override {
        const View sums(a.workspace.memory(), {static_cast<std::int64_t>(a.inputs.size())}, DType::f32);
        std::visit(
            [&](auto& s) {
                kernels::sums(s, a.inputs, sums);
                kernels::sum(s, sums, a.outputs[0]);
            },
            stream);
    }
};

class ClipFactor final : public Op { // square sum -> norm, factor
public:
    explicit ClipFactor(double max_norm) : max_norm_(static_cast<float>(max_norm)) {}
    std::string_view name() const override { return "clip_factor"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[0], in[0]}; }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::clip_factor(s, a.inputs[0], max_norm_, a.outputs[0], a.outputs[1]); },
                   stream);
    }

private:
    float max_norm_;
};

struct Trained {
    ValueId gradient;
    ValueId weight;
    std::vector<ValueId> states;
};

// The lists of an UpdateOp.
std::vector<ValueId> update_inputs(ValueId pace, ValueId factor, const std::vector<Trained>& parameters) {
    std::vector<ValueId> inputs{pace, factor};
    for (const Trained& one : parameters)
        inputs.push_back(one.gradient);
    for (const Trained& one : parameters)
        inputs.push_back(one.weight);
    for (std::size_t state = 0; state < parameters[0].states.size(); ++state)
        for (const Trained& one : parameters)
            inputs.push_back(one.states[state]);
    return inputs;
}

void append_updates(Graph& graph, const std::vector<ValueId>& parameters, const std::vector<ValueId>& gradients,
                    const Optimizer& optimizer, ValueId factor) {
    std::vector<Trained> decaying, constant;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
        const Value& parameter = graph.value(parameters[i]);
        Trained one{gradients[i], parameters[i], {}};
        for (const std::string_view state : optimizer.states())
            one.states.push_back(
                graph.optimizer_state(fmt::format("optimizer.{}/{}", state, parameter.name), parameters[i]));
        const bool decays = parameter.parameter->decays && optimizer.weight_decay() != 0;
        (decays ? decaying : constant).push_back(std::move(one));
    }
    const auto append = [&](const std::string& name, const std::vector<Trained>& those, float weight_decay) {
        if (those.empty()) return;
        const ValueId pace = optimizer.pace(graph, name + ".pace", weight_decay);
        graph.apply(optimizer.update(those.size(), weight_decay), name, update_inputs(pace, factor, those));
    };
    append("update.decaying", decaying, optimizer.weight_decay());
    append("update", constant, 0);
}

} // namespace

std::unique_ptr<Optimizer> make_optimizer(const Config& config) {
    const std::string name = config.get(optimizer_name);
    if (!(config.get(optimizer_rate) >= 0)) config.refuse(optimizer_rate.name, "must be at least 0");
    if (!(config.get(training_max_norm) >= 0))
        config.refuse(training_max_norm.name, "must be above 0, or 0 for no clipping");
    if (name == "adam") return make_adam(config, false);
    if (name == "adamw") return make_adam(config, true);
    if (name == "sgd") return make_sgd(config);
    config.refuse(optimizer_name.name, no_such_name("optimizer", name, {"adam", "adamw", "sgd"}));
}

ValueId append_optimizer(Graph& graph, const std::vector<ValueId>& gradients, const Optimizer& optimizer,
                         double max_norm, const std::optional<LossScale>& loss_scale) {
    const Graph::PhaseGuard guard(graph, Phase::update);
    const std::vector<ValueId> parameters = graph.of_kind(ValueKind::parameter);
    const std::vector<ValueId> block_sums = graph.apply(std::make_shared<SquareSums>(), "square_sums", gradients);
    const ValueId square_sum = graph.apply_one(std::make_shared<Total>(), "gradient_square_sum", block_sums);
    const std::vector<ValueId> clip = loss_scale
                                          ? append_unscale(graph, *loss_scale, square_sum, max_norm)
                                          : graph.apply(std::make_shared<ClipFactor>(max_norm), "clip", {square_sum});
    append_updates(graph, parameters, gradients, optimizer, clip[1]);
    graph.keep(clip[0]);
    return clip[0];
}

} // namespace tessera
