// SPDX-License-Identifier: Apache-2.0
// The list of optimizers, and what they share: the gradient norm is a sum over fixed blocks of each logical tensor, in
// a fixed order, so that it has the same bits however the work is spread.
#include "core/optimizers/optimizer.hpp"

#include "core/extension.hpp"
#include "core/ops/ops.hpp"
#include "core/optimizers/counted_mean.hpp"
#include "kernels/copy.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"
#include "kernels/reduce.hpp"
#include "kernels/update.hpp"

#include <array>
#include <fmt/format.h>
#include <span>

namespace tessera {
namespace {

static_assert(flat_block % kernels::square_sum_block == 0, "a run of a gradient consists of whole blocks");

std::int64_t blocks_of(std::int64_t count) {
    return (count + kernels::square_sum_block - 1) / kernels::square_sum_block;
}

// Hands tensors to a kernel that takes lists of them, a batch at a time: a step allocates nothing.
template <std::size_t lists, class Work> class Batches {
public:
    explicit Batches(const Work& work) : work_(work) {}
    void add(const std::array<View, lists>& views) {
        for (std::size_t list = 0; list < lists; ++list)
            views_[list][size_] = views[list];
        if (++size_ == most) flush();
    }
    void flush() {
        std::array<std::span<const View>, lists> spans;
        for (std::size_t list = 0; list < lists; ++list)
            spans[list] = std::span(views_[list]).first(size_);
        if (size_ > 0) work_(spans);
        size_ = 0;
    }

private:
    static constexpr std::size_t most = 64;
    const Work& work_;
    std::array<std::array<View, most>, lists> views_;
    std::size_t size_ = 0;
};

// gradients -> the sums of squares of all their blocks, one gradient after another. A rank that holds a part of a
// gradient sums over blocks of its part, and leaves what it does not count at 0.
class SquareSums final : public Op {
public:
    std::string_view name() const override { return "square_sums"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        std::int64_t blocks = 0;
        for (const TensorType& gradient : in)
            blocks += blocks_of(gradient.shape.count());
        return {{{blocks}, DType::f32}};
    }
    std::optional<std::vector<Placement>> placed(std::span<const TensorType>,
                                                 std::span<const Placement> inputs) const override {
        using Kind = Placement::Kind;
        for (const Placement& placement : inputs)
            if (placement.kind == Kind::partial) return std::nullopt;
        return std::vector<Placement>{Placement::partial()}; // not all of them are on every rank
    }
    void run(Stream& stream, const Operands& a) const override {
        auto* next = a.outputs[0].as<float>();
        if (a.locality != nullptr) std::visit([&](auto& s) { kernels::fill(s, a.outputs[0], 0); }, stream);
        const auto sum = [&](const auto& lists) {
            std::visit([&](auto& s) { kernels::square_sums(s, lists[0], lists[1]); }, stream);
        };
        Batches<2, decltype(sum)> batch(sum);
        for (std::size_t i = 0; i < a.inputs.size(); ++i) {
            const View& gradient = a.inputs[i];
            const std::int64_t first = a.locality == nullptr ? 0 : blocks_of(a.locality->runs[i].begin);
            if (a.counts(i)) batch.add({gradient, View(next + first, {blocks_of(gradient.count())}, DType::f32)});
            next += blocks_of(a.locality == nullptr ? gradient.count() : a.locality->wholes[i].count());
        }
        batch.flush();
    }
};

// The sums of the blocks of tensors with so many elements -> the sum of all: first of each tensor, then of those.
class Total final : public Op {
public:
    explicit Total(std::vector<std::int64_t> counts) : counts_(std::move(counts)) {}
    std::string_view name() const override { return "total"; }
    std::vector<TensorType> infer(std::span<const TensorType>) const override { return {{{}, DType::f32}}; }
    std::int64_t workspace_bytes(const Stream&, std::span<const TensorType>,
                                 std::span<const TensorType>) const override {
        return static_cast<std::int64_t>(counts_.size()) * bytes_of(DType::f32);
    }
    void run(Stream& stream, const Operands& a) const override {
        const View sums(a.workspace.memory(), {static_cast<std::int64_t>(counts_.size())}, DType::f32);
        auto* next = a.inputs[0].as<float>();
        auto* sum = sums.as<float>();
        const auto add = [&](const auto& lists) {
            const auto count = static_cast<std::int64_t>(lists[0].size());
            std::visit([&](auto& s) { kernels::sums(s, lists[0], View(sum, {count}, DType::f32)); }, stream);
            sum += count;
        };
        Batches<1, decltype(add)> batch(add);
        for (const std::int64_t count : counts_) {
            batch.add({View(next, {blocks_of(count)}, DType::f32)});
            next += blocks_of(count);
        }
        batch.flush();
        std::visit([&](auto& s) { kernels::sum(s, sums, a.outputs[0]); }, stream);
    }

private:
    std::vector<std::int64_t> counts_;
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

float setting_within(const Config& config, const Key<double>& key, double low, double high) {
    const double value = config.get(key);
    if (!(value >= low && value < high)) config.refuse(key.name, "out of range");
    return static_cast<float>(value);
}

ValueId learning_rate(Graph& graph, std::string name) {
    return graph.step_input(std::move(name), {{}, DType::f32}, [](const StepState& state, const View& host) {
        *host.as<float>() = static_cast<float>(state.learning_rate);
    });
}

std::vector<std::string_view> optimizer_names() { return {"adagrad", "adam", "adamw", "lion", "rmsprop", "sgd"}; }

std::unique_ptr<Optimizer> make_optimizer(const Config& config) {
    const std::string name = config.get(optimizer_name);
    if (!(config.get(optimizer_rate) >= 0)) config.refuse(optimizer_rate.name, "must be at least 0");
    if (!(config.get(training_max_norm) >= 0))
        config.refuse(training_max_norm.name, "must be above 0, or 0 for no clipping");
    if (name == "adam") return make_adam(config, false);
    if (name == "adamw") return make_adam(config, true);
    if (name == "sgd") return make_sgd(config);
    if (name == "adagrad") return make_adagrad(config);
    if (name == "lion") return make_lion(config);
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
    const std::vector<ValueId> parameters = graph.trained();
    if (parameters.empty()) throw ConfigError("all weights of the model are frozen: nothing is trained");
    std::vector<std::int64_t> counts;
    for (const ValueId gradient : gradients)
        counts.push_back(graph.value(gradient).type.shape.count());
    const ValueId block_sums = graph.apply_one(std::make_shared<SquareSums>(), "square_sums", gradients);
    const ValueId square_sum =
        graph.apply_one(std::make_shared<Total>(std::move(counts)), "gradient_square_sum", {block_sums});
    CountedMean mean{no_value, control.loss, square_sum};
    if (control.counted != no_value)
        mean = append_counted_mean(graph, control.counted, control.loss, square_sum, control.units_per_step);
    const std::vector<ValueId> clip =
        control.loss_scale ? append_unscale(graph, *control.loss_scale, mean.square_sum, control.max_norm)
                           : graph.apply(std::make_shared<ClipFactor>(control.max_norm), "clip", {mean.square_sum});
    ValueId factor = clip[1];
    if (mean.ratio != no_value) factor = append_product(graph, "clip_of_counted", factor, mean.ratio);
    if (control.guard != nullptr) factor = append_judgement(graph, *control.guard, mean.loss, clip[0], factor);
    append_updates(graph, parameters, gradients, optimizer, factor);
    for (const RunningStatistics& of : control.running)
        ops::update_running_statistics(graph, graph.value(of.mean).name + ".update", of, factor);
    for (const CarriedState& of : control.carried)
        ops::carry_state(graph, graph.value(of.state).name + ".carry", of, factor);
    graph.keep(clip[0]);
    return clip[0];
}

} // namespace tessera
