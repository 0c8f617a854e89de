// SPDX-License-Identifier: Apache-2.0
// Building a graph: every node is checked where it is appended, so a wrong shape names the layer that made it.
#include "core/graph/graph.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {

ValueId Graph::append(Value value) {
    values_.push_back(std::move(value));
    return static_cast<ValueId>(values_.size() - 1);
}

ValueId Graph::input(std::string name, TensorType type, std::string role) {
    return append({.name = std::move(name), .type = type, .kind = ValueKind::input, .role = std::move(role)});
}

ValueId Graph::step_input(std::string name, TensorType type, StepFunction of_step) {
    for (std::size_t i = 0; i < values_.size(); ++i)
        if (values_[i].of_step && values_[i].name == name) {
            values_[i].phase = std::min(values_[i].phase, phase_);
            return static_cast<ValueId>(i);
        }
    return append({.name = std::move(name),
                   .type = type,
                   .kind = ValueKind::input,
                   .phase = phase_,
                   .of_step = std::move(of_step)});
}

ValueId Graph::parameter(std::string name, const Shape& shape, ParameterInfo info) {
    return append({.name = std::move(name),
                   .type = {shape, DType::f32},
                   .kind = ValueKind::parameter,
                   .phase = Phase::prepare,
                   .parameter = std::move(info)});
}

ValueId Graph::optimizer_state(std::string name, ValueId parameter) {
    return append({.name = std::move(name),
                   .type = value(parameter).type,
                   .kind = ValueKind::optimizer_state,
                   .phase = Phase::update,
                   .parameter = value(parameter).parameter});
}

ValueId Graph::optimizer_state(std::string name, const Shape& shape, float start) {
    return append({.name = std::move(name),
                   .type = {shape, DType::f32},
                   .kind = ValueKind::optimizer_state,
                   .phase = Phase::update,
                   .start = start});
}

std::vector<ValueId> Graph::apply(OpPointer op, std::string name, std::vector<ValueId> inputs) {
    std::vector<TensorType> types;
    for (const ValueId id : inputs)
        types.push_back(value(id).type);
    std::vector<TensorType> outputs;
    try {
        outputs = op->infer(types);
    } catch (const ConfigError& error) {
        throw ConfigError(fmt::format("{} '{}': {}", op->name(), name, error.what()));
    }
    const auto producer = static_cast<std::int32_t>(nodes_.size());
    Node node{std::move(op), name, phase_, std::move(inputs), {}, layer_};
    for (std::size_t i = 0; i < outputs.size(); ++i) {
        std::string output_name = outputs.size() == 1 ? name : fmt::format("{}:{}", name, i);
        node.outputs.push_back(
            append({.name = std::move(output_name), .type = outputs[i], .phase = phase_, .producer = producer}));
    }
    nodes_.push_back(std::move(node));
    return nodes_.back().outputs;
}

ValueId Graph::apply_one(OpPointer op, std::string name, std::vector<ValueId> inputs) {
    return apply(std::move(op), std::move(name), std::move(inputs)).at(0);
}

void Graph::accumulate(ValueId id, ValueId gradient_of) {
    Value& value = values_[static_cast<std::size_t>(id)];
    if (value.type.dtype != DType::f32)
        throw InternalError(fmt::format("'{}' is {}: only f32 is accumulated", value.name, name_of(value.type.dtype)));
    value.accumulated = true;
    value.gradient_of = gradient_of;
}

ValueId Graph::computed(std::string name, const TensorType& type, Phase phase) {
    return append({.name = std::move(name), .type = type, .phase = phase});
}

void Graph::replace_nodes(std::deque<Node> nodes) {
    nodes_ = std::move(nodes);
    for (Value& value : values_)
        value.producer = -1;
    for (std::size_t i = 0; i < nodes_.size(); ++i)
        for (const ValueId output : nodes_[i].outputs)
            values_[static_cast<std::size_t>(output)].producer = static_cast<std::int32_t>(i);
}

std::vector<ValueId> Graph::of_kind(ValueKind kind) const {
    std::vector<ValueId> found;
    for (std::size_t i = 0; i < values_.size(); ++i)
        if (values_[i].kind == kind) found.push_back(static_cast<ValueId>(i));
    return found;
}

std::vector<ValueId> Graph::trained() const {
    std::vector<ValueId> found = of_kind(ValueKind::parameter);
    std::erase_if(found, [this](ValueId id) { return value(id).parameter->frozen; });
    return found;
}

void Graph::freeze(ValueId parameter) { values_[static_cast<std::size_t>(parameter)].parameter->frozen = true; }

ValueId Graph::named(std::string_view name) const {
    for (std::size_t i = 0; i < values_.size(); ++i)
        if (values_[i].name == name) return static_cast<ValueId>(i);
    throw InternalError(fmt::format("the graph has no value named '{}'", name));
}

} // namespace tessera
