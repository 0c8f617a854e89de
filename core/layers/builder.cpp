// SPDX-License-Identifier: Apache-2.0
// Parameters of a layer: f32 at rest; in another compute type a copy is made once per step, before the first
// micro-batch.
#include "core/layers/builder.hpp"

#include "core/ops/ops.hpp"

#include <cmath>

namespace tessera {

std::int64_t rows_in_memory(std::int64_t vocabulary) {
    constexpr std::int64_t multiple = 128, smallest = 32 * multiple; // at most 3 % more
    return vocabulary < smallest ? vocabulary : (vocabulary + multiple - 1) / multiple * multiple;
}

ValueId Builder::matrix(std::string_view name, const Shape& shape, std::string role, double deviation) {
    return decaying(name, shape, {std::move(role), layer_, {.deviation = deviation}, true});
}

ValueId Builder::exact_matrix(std::string_view name, const Shape& shape, std::string role, double deviation) {
    return parameter(name, shape, {std::move(role), layer_, {.deviation = deviation}, true});
}

ValueId Builder::table(std::string_view name, std::int64_t vocabulary, std::int64_t width, double deviation) {
    return decaying(name, {rows_in_memory(vocabulary), width},
                    {"vocabulary", layer_, {.deviation = deviation}, true, vocabulary});
}

ValueId Builder::decaying(std::string_view name, const Shape& shape, ParameterInfo info) {
    const ValueId parameter = this->parameter(name, shape, std::move(info));
    if (compute() == DType::f32) return parameter;
    const Graph::PhaseGuard prepare(graph_, Phase::prepare);
    const std::string in_use = path(name) + ".in_use";
    if (precision_.stochastic_weights && training_) return ops::stochastic_cast(graph_, in_use, parameter);
    return ops::cast(graph_, in_use, parameter, compute());
}

ValueId Builder::parameter(std::string_view name, const Shape& shape, ParameterInfo info) {
    info.frozen = lora_.rank > 0 && !adapter_;
    return graph_.parameter(path(name), shape, std::move(info));
}

ValueId Builder::linear_weight(std::string_view name, const Shape& shape, std::string role, double deviation) {
    const ValueId weight =
        precision_.linear_f8 ? exact_matrix(name, shape, role, deviation) : matrix(name, shape, role, deviation);
    roles_.emplace(weight, std::move(role));
    return weight;
}

// Where a strategy cuts the weight's outputs it cuts B's, where it cuts the inputs A's.
ValueId Builder::adapted(std::string_view name, ValueId x, ValueId weight, ValueId y, int contracted) {
    const Shape shape = graph_.value(weight).type.shape;
    const int outputs = shape.rank() - contracted;
    const std::string role = roles_.at(weight);
    const bool of_inputs = role == "row" || role == "head_output";
    Shape a{lora_.rank}, b = shape.slice(0, outputs);
    for (int dim = outputs; dim < shape.rank(); ++dim)
        a.append(shape[dim]);
    b.append(lora_.rank);
    const auto inputs = static_cast<double>(shape.count(outputs, shape.rank()));
    const Scope scope(*this, name);
    adapter_ = true;
    const ValueId down = matrix("lora_a", a, of_inputs ? role : "whole", 1 / std::sqrt(3 * inputs)); // as peft's
    const ValueId up = matrix("lora_b", b, of_inputs ? "whole" : role, 0);
    adapter_ = false;
    const ValueId inner = ops::linear(graph_, path("lora_down"), x, down, no_value, contracted);
    const ValueId outer = ops::linear(graph_, path("lora_up"), inner, up, no_value);
    return ops::add(graph_, path("lora"), y, ops::scale(graph_, path("lora_scale"), outer, lora_.factor()));
}

ValueId Builder::linear(std::string_view name, ValueId x, ValueId weight, ValueId bias, int contracted) {
    const bool adapts = roles_.contains(weight) && lora_.adapts(path(name));
    const auto with_adapter = [&](ValueId y) { return adapts ? adapted(name, x, weight, y, contracted) : y; };
    if (!precision_.linear_f8) return with_adapter(ops::linear(graph_, path(name), x, weight, bias, contracted));
    const auto in_8_bits = [&](ValueId value, const std::string& label) {
        return ops::quantize(graph_, label + ".in_f8", value, DType::f8e4m3, contracted);
    };
    const auto of_step = [&] {
        const Graph::PhaseGuard prepare(graph_, Phase::prepare);
        return in_8_bits(weight, graph_.value(weight).name);
    };
    const ops::InEightBits w = of_step();
    return with_adapter(ops::linear_f8(graph_, path(name), in_8_bits(x, path(name) + ".input"), w, bias, contracted));
}

ValueId Builder::vector(std::string_view name, const Shape& shape, std::string role, double constant) {
    return parameter(name, shape, {std::move(role), layer_, {.constant = constant}, false});
}

RunningStatistics Builder::running_statistics(const Shape& shape, double momentum) {
    return {.mean = graph_.optimizer_state(path("running_mean"), shape, 0),
            .variance = graph_.optimizer_state(path("running_variance"), shape, 1),
            .momentum = momentum};
}

void Builder::accumulate(RunningStatistics of, ValueId moments) {
    graph_.accumulate(moments);
    of.moments = moments;
    running_.push_back(of);
}

Builder::Scope::Scope(Builder& builder, std::string_view name, int layer)
    : builder_(builder), scope_before_(builder.scope_), layer_before_(builder.layer_),
      nodes_(builder.graph_, layer >= 0 ? layer : builder.layer_) {
    builder.scope_ = builder.path(name);
    if (layer >= 0) builder.layer_ = layer;
}

Builder::Scope::~Scope() {
    builder_.scope_ = scope_before_;
    builder_.layer_ = layer_before_;
}

} // namespace tessera
