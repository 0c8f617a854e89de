// SPDX-License-Identifier: Apache-2.0
// The list of optimizers, and what stands before their updates: which parameters are updated alike, and the clipping of
// gradients.
#include "core/optimizers/optimizer.hpp"

#include "core/extension.hpp"
#include "core/ops/ops.hpp"
#include "core/optimizers/counted_mean.hpp"
#include "core/optimizers/square_sums.hpp"
#include "core/optimizers/weight_average.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"
#include "kernels/update.hpp"

#include <fmt/format.h>
#include <map>
#include <tuple>

namespace tessera {
namespace {

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

// Those with decay first, the tables of groups in their order.
std::vector<Alike> sorted_out(const Graph& graph, const std::vector<Learned>& parameters, const Optimizer& optimizer,
                              const std::vector<ParameterSettings>& settings) {
    std::map<std::tuple<std::size_t, bool, bool>, Alike> found;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
        const Value& parameter = graph.value(parameters[i].weight);
        const bool shrinks = parameter.parameter->decays && optimizer.weight_decay() != 0;
        const float decay = settings[i].weight_decay ? static_cast<float>(*settings[i].weight_decay)
                                                     : (shrinks ? optimizer.weight_decay() : 0.0f);
        const std::size_t group = settings[i].group;
        const bool adapted = optimizer.adapts(*parameter.parameter);
        Alike& alike = found[{group, decay == 0, !adapted}];
        alike.name = fmt::format("update{}{}{}", group == 0 ? "" : fmt::format(".group_{}", group),
                                 decay == 0 ? "" : ".decaying", adapted ? ".adapted" : "");
        alike.adapted = adapted;
        alike.weight_decay = decay;
        alike.rate_factor = settings[i].rate_factor;
        alike.parameters.push_back(parameters[i]);
    }
    std::vector<Alike> all;
    for (auto& [key, alike] : found)
        all.push_back(std::move(alike));
    return all;
}

std::vector<std::string_view> states_of(const Optimizer& optimizer, const ParameterInfo& parameter) {
    return optimizer.adapts(parameter) ? optimizer.states_of_adapted() : optimizer.states();
}

void append_updates(Graph& graph, std::vector<Learned> parameters, const Optimizer& optimizer, ValueId factor,
                    const std::vector<ParameterSettings>& settings) {
    for (Learned& one : parameters)
        for (const std::string_view state : states_of(optimizer, *graph.value(one.weight).parameter))
            one.states.push_back(
                graph.optimizer_state(fmt::format("optimizer.{}/{}", state, graph.value(one.weight).name), one.weight));
    for (const Alike& alike : sorted_out(graph, parameters, optimizer, settings))
        optimizer.append(graph, alike, factor);
}

} // namespace

std::vector<ValueId> update_inputs(ValueId pace, ValueId factor, const std::vector<Learned>& parameters) {
    std::vector<ValueId> inputs{pace, factor};
    for (const Learned& one : parameters)
        inputs.push_back(one.gradient);
    for (const Learned& one : parameters)
        inputs.push_back(one.weight);
    for (std::size_t state = 0; state < parameters[0].states.size(); ++state)
        for (const Learned& one : parameters)
            inputs.push_back(one.states[state]);
    return inputs;
}

float setting_within(const Config& config, const Key<double>& key, double low, double high) {
    const double value = config.get(key);
    if (!(value >= low && value < high)) config.refuse(key.name, "out of range");
    return static_cast<float>(value);
}

ValueId learning_rate(Graph& graph, std::string name, double rate_factor) {
    return graph.step_input(std::move(name), {{}, DType::f32}, [rate_factor](const StepState& state, const View& host) {
        *host.as<float>() = static_cast<float>(state.learning_rate * rate_factor);
    });
}

std::vector<std::string_view> optimizer_names() {
    return {"adafactor", "adagrad", "adam", "adamw", "lamb", "lars", "lion", "muon", "rmsprop", "sgd"};
}

std::unique_ptr<Optimizer> make_optimizer(const Config& config) {
    const std::string name = config.get(optimizer_name);
    if (!(config.get(optimizer_rate) >= 0)) config.refuse(optimizer_rate.name, "must be at least 0");
    if (!(config.get(training_max_norm) >= 0))
        config.refuse(training_max_norm.name, "must be above 0, or 0 for no clipping");
    if (name == "adafactor") return make_adafactor(config);
    if (name == "adam") return make_adam(config, false);
    if (name == "adamw") return make_adam(config, true);
    if (name == "sgd") return make_sgd(config);
    if (name == "adagrad") return make_adagrad(config);
    if (name == "lamb") return make_lamb(config);
    if (name == "lars") return make_lars(config);
    if (name == "lion") return make_lion(config);
    if (name == "muon") return make_muon(config);
    if (name == "rmsprop") return make_rmsprop(config);
    std::vector<std::string_view> names = optimizer_names();
    for (const OptimizerType& type : extension().optimizers) {
        if (type.name == name) return type.make(config);
        names.push_back(type.name);
    }
    config.refuse(optimizer_name.name, no_such_name("optimizer", name, names));
}

ValueId append_optimizer(Graph& graph, const std::vector<ValueId>& gradients, const Optimizer& optimizer,
                         const StepControl& control) {
    const Graph::PhaseGuard guard(graph, Phase::update);
    const std::vector<ValueId> trained = graph.trained();
    if (trained.empty()) throw ConfigError("all weights of the model are frozen: nothing is trained");
    std::vector<Learned> parameters;
    for (std::size_t i = 0; i < trained.size(); ++i)
        parameters.push_back({gradients[i], trained[i], {}});
    const ValueId square_sum = append_square_sum(graph, "gradient_square_sum", gradients);
    CountedMean mean{no_value, control.loss, square_sum};
    if (control.counted != no_value)
        mean = append_counted_mean(graph, control.counted, control.loss, square_sum, control.units_per_step);
    const std::vector<ValueId> clip =
        control.loss_scale ? append_unscale(graph, *control.loss_scale, mean.square_sum, control.max_norm)
                           : graph.apply(std::make_shared<ClipFactor>(control.max_norm), "clip", {mean.square_sum});
    ValueId factor = clip[1];
    if (mean.ratio != no_value) factor = append_product(graph, "clip_of_counted", factor, mean.ratio);
    if (control.guard != nullptr) factor = append_judgement(graph, *control.guard, mean.loss, clip[0], factor);
    append_updates(graph, std::move(parameters), optimizer, factor,
                   control.settings.empty() ? std::vector<ParameterSettings>(trained.size()) : control.settings);
    if (control.ema_decay > 0) append_weight_average(graph, control.ema_decay, factor);
    for (const RunningStatistics& of : control.running)
        ops::update_running_statistics(graph, graph.value(of.mean).name + ".update", of, factor);
    for (const CarriedState& of : control.carried)
        ops::carry_state(graph, graph.value(of.state).name + ".carry", of, factor);
    graph.keep(clip[0]);
    return clip[0];
}

} // namespace tessera
