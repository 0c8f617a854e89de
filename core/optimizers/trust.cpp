// SPDX-License-Identifier: Apache-2.0
// LAMB (You et al. 2020) and LARS (You et al. 2017): the step of a tensor is in proportion to its norm. Norms are sums
// over fixed blocks of whole tensors, as for clipping, so that they have the same bits however a tensor is spread. As
// is usual, the steps of vectors (biases, norms) are not adapted.
#include "kernels/trust.hpp"
#include "core/optimizers/optimizer.hpp"
#include "core/optimizers/square_sums.hpp"
#include "core/optimizers/update_op.hpp"

#include <fmt/format.h>

namespace tessera {
namespace {

class LambDirection final : public UpdateOp { // keeps the moments; what it finds lies in the gradients' place
public:
    LambDirection(const kernels::Lamb& settings, std::size_t tensors) : UpdateOp(tensors, 2), settings_(settings) {}
    std::string_view name() const override { return "lamb_direction"; }
    std::vector<int> writes() const override { return all_but_weights(); }
    void run(Stream& stream, const Operands& a) const override {
        const kernels::TrustTensors tensors{gradients(a), weights(a), state(a, 0), state(a, 1)};
        std::visit([&](auto& s) { kernels::lamb_direction(s, settings_, pace(a), factor(a), tensors); }, stream);
    }

private:
    kernels::Lamb settings_;
};

class LambStep final : public UpdateOp { // takes two norms more
public:
    LambStep(bool adapts, std::size_t tensors) : UpdateOp(tensors, 0, 2), adapts_(adapts) {}
    std::string_view name() const override { return "lamb"; }
    void run(Stream& stream, const Operands& a) const override {
        const kernels::TrustTensors tensors{gradients(a), weights(a), {}, {}};
        std::visit(
            [&](auto& s) {
                kernels::lamb_step(s, adapts_, pace(a), factor(a), behind_lists(a, 0), behind_lists(a, 1), tensors);
            },
            stream);
    }

private:
    bool adapts_;
};

class LarsUpdate final : public UpdateOp { // keeps the velocity, takes two norms more
public:
    LarsUpdate(const kernels::Lars& settings, bool adapts, std::size_t tensors)
        : UpdateOp(tensors, 1, 2), settings_(settings), adapts_(adapts) {}
    std::string_view name() const override { return "lars"; }
    void run(Stream& stream, const Operands& a) const override {
        const kernels::TrustTensors tensors{gradients(a), weights(a), state(a, 0), {}};
        std::visit(
            [&](auto& s) {
                kernels::lars(s, settings_, adapts_, pace(a), factor(a), behind_lists(a, 0), behind_lists(a, 1),
                              tensors);
            },
            stream);
    }

private:
    kernels::Lars settings_;
    bool adapts_;
};

std::vector<ValueId> weights_of(const Alike& alike) {
    std::vector<ValueId> weights;
    for (const Learned& one : alike.parameters)
        weights.push_back(one.weight);
    return weights;
}

std::vector<ValueId> gradients_of(const Alike& alike) {
    std::vector<ValueId> gradients;
    for (const Learned& one : alike.parameters)
        gradients.push_back(one.gradient);
    return gradients;
}

class Lamb final : public Optimizer {
public:
    explicit Lamb(const kernels::Lamb& settings) : settings_(settings) {}
    std::vector<std::string_view> states() const override { return {"first_moment", "second_moment"}; }
    float weight_decay() const override { return settings_.weight_decay; }
    bool adapts(const ParameterInfo& parameter) const override { return parameter.decays; }
    void append(Graph& graph, const Alike& alike, ValueId factor) const override {
        kernels::Lamb settings = settings_;
        settings.weight_decay = alike.weight_decay;
        const auto of_step = [settings, by = alike.rate_factor](const StepState& state, const View& host) {
            kernels::write_lamb_pace(host, settings, static_cast<float>(state.learning_rate * by),
                                     state.step + 1 - state.skipped_steps);
        };
        const ValueId pace = graph.step_input(alike.name + ".pace", {{kernels::lamb_pace_count}, DType::f32}, of_step);
        const std::size_t tensors = alike.parameters.size();
        graph.apply(std::make_shared<LambDirection>(settings, tensors), alike.name + ".direction",
                    update_inputs(pace, factor, alike.parameters));
        const ValueId of_weights = append_tensor_squares(graph, alike.name + ".weight_squares", weights_of(alike));
        const ValueId of_directions =
            append_tensor_squares(graph, alike.name + ".direction_squares", gradients_of(alike));
        std::vector<ValueId> inputs{pace, factor};
        for (const ValueId id : gradients_of(alike))
            inputs.push_back(id);
        for (const ValueId id : weights_of(alike))
            inputs.push_back(id);
        inputs.insert(inputs.end(), {of_weights, of_directions});
        graph.apply(std::make_shared<LambStep>(alike.adapted, tensors), alike.name, std::move(inputs));
    }

private:
    kernels::Lamb settings_;
};

class Lars final : public Optimizer {
public:
    explicit Lars(const kernels::Lars& settings) : settings_(settings) {}
    std::vector<std::string_view> states() const override { return {"velocity"}; }
    float weight_decay() const override { return settings_.weight_decay; }
    bool adapts(const ParameterInfo& parameter) const override { return parameter.decays; }
    void append(Graph& graph, const Alike& alike, ValueId factor) const override {
        kernels::Lars settings = settings_;
        settings.weight_decay = alike.weight_decay;
        const ValueId rate = learning_rate(graph, alike.name + ".pace", alike.rate_factor);
        std::vector<ValueId> inputs = update_inputs(rate, factor, alike.parameters);
        inputs.push_back(append_tensor_squares(graph, alike.name + ".weight_squares", weights_of(alike)));
        inputs.push_back(append_tensor_squares(graph, alike.name + ".gradient_squares", gradients_of(alike)));
        graph.apply(std::make_shared<LarsUpdate>(settings, alike.adapted, alike.parameters.size()), alike.name,
                    std::move(inputs));
    }

private:
    kernels::Lars settings_;
};

} // namespace

std::unique_ptr<Optimizer> make_lamb(const Config& config) {
    return std::make_unique<Lamb>(kernels::Lamb{.beta1 = setting_within(config, optimizer_beta1, 0, 1),
                                                .beta2 = setting_within(config, optimizer_beta2, 0, 1),
                                                .epsilon = setting_within(config, optimizer_epsilon, 0, 1),
                                                .weight_decay = setting_within(config, optimizer_decay, 0, 1e3)});
}

std::unique_ptr<Optimizer> make_lars(const Config& config) {
    return std::make_unique<Lars>(kernels::Lars{.momentum = setting_within(config, optimizer_momentum, 0, 1),
                                                .weight_decay = setting_within(config, optimizer_decay, 0, 1e3),
                                                .trust = setting_within(config, optimizer_trust, 0, 1e3)});
}

} // namespace tessera
