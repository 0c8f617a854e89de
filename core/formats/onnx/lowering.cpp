// SPDX-License-Identifier: Apache-2.0
// The list of lowerings, what values become, and the walk over what an output needs.
#include "core/formats/onnx/lowering.hpp"

#include "kernels/error.hpp"
#include "kernels/memory.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <numeric>

namespace tessera {

std::span<const OnnxLoweringOf> onnx_lowerings() {
    static constexpr std::array list = {
        OnnxLoweringOf{"activation", lower_activation},
        OnnxLoweringOf{"add", lower_add},
        OnnxLoweringOf{"add_rows", lower_add_rows},
        OnnxLoweringOf{"attention", lower_attention},
        OnnxLoweringOf{"average_pool", lower_average_pool},
        OnnxLoweringOf{"batch_norm_inference", lower_batch_norm},
        OnnxLoweringOf{"combine", lower_combine},
        OnnxLoweringOf{"concatenate", lower_concatenate},
        OnnxLoweringOf{"convolution", lower_convolution},
        OnnxLoweringOf{"convolution_input_gradient", lower_transposed_convolution},
        OnnxLoweringOf{"cross_attention", lower_cross_attention},
        OnnxLoweringOf{"dispatch", lower_dispatch},
        OnnxLoweringOf{"embedding", lower_embedding},
        OnnxLoweringOf{"expert_linear", lower_expert_linear},
        OnnxLoweringOf{"flatten", lower_flatten},
        OnnxLoweringOf{"gate", lower_gate},
        OnnxLoweringOf{"gru", lower_gru},
        OnnxLoweringOf{"layer_norm", lower_layer_norm},
        OnnxLoweringOf{"leave_out", lower_leave_out},
        OnnxLoweringOf{"linear", lower_linear},
        OnnxLoweringOf{"lstm", lower_lstm},
        OnnxLoweringOf{"max_pool", lower_max_pool},
        OnnxLoweringOf{"place_rows", lower_place_rows},
        OnnxLoweringOf{"residual_norm", lower_residual_norm},
        OnnxLoweringOf{"rms_norm", lower_rms_norm},
        OnnxLoweringOf{"rotary", lower_rotary},
        OnnxLoweringOf{"route", lower_route},
        OnnxLoweringOf{"scale", lower_scale},
        OnnxLoweringOf{"shift_tokens", lower_shift_tokens},
        OnnxLoweringOf{"token_segments", lower_token_segments},
        OnnxLoweringOf{"token_types", lower_token_types},
    };
    return list;
}

void OnnxLowering::refuse(std::string_view why) const {
    throw ConfigError(fmt::format("'{}' (op {}): {}", node_.name, node_.op->name(), why));
}

bool OnnxWriter::is_weight(ValueId id) const {
    const ValueKind kind = value(id).kind;
    return kind == ValueKind::parameter || kind == ValueKind::optimizer_state;
}

std::vector<std::int64_t> OnnxWriter::numbers_of(ValueId id) const {
    const Value& input = value(id);
    if (input.type.dtype != DType::i32) throw InternalError(fmt::format("'{}' has no whole numbers", input.name));
    std::vector<std::int32_t> numbers(static_cast<std::size_t>(input.type.shape.count()));
    input.of_step({}, View(numbers.data(), input.type.shape, DType::i32));
    return {numbers.begin(), numbers.end()};
}

std::string OnnxWriter::name_of(ValueId id) {
    if (const auto found = plain_.find(id); found != plain_.end()) return found->second;
    const Value& one = value(id);
    if (const auto found = channels_first_.find(id); found != channels_first_.end()) {
        set(id, to_.add(one.name, "Transpose", {found->second}, {{"perm", std::vector<std::int64_t>{0, 2, 3, 1}}})[0]);
    } else if (is_weight(id)) {
        set(id, weight(id, one.shape_outside(), {}, one.name));
    } else if (is_step_input(id)) {
        set(id, to_.integers(one.type.shape, numbers_of(id)));
    } else {
        throw InternalError(fmt::format("'{}' is not there yet", one.name));
    }
    return plain_.at(id);
}

bool OnnxWriter::is_channels_first(ValueId id) const { return channels_first_.contains(id) && !plain_.contains(id); }

std::string OnnxWriter::channels_first(ValueId id) {
    if (const auto found = channels_first_.find(id); found != channels_first_.end()) return found->second;
    const std::vector<std::int64_t> order{0, 3, 1, 2};
    set_channels_first(id, to_.add(value(id).name, "Transpose", {name_of(id)}, {{"perm", order}})[0]);
    return channels_first_.at(id);
}

// Of a table that is there as it is, another order is made in the graph: a tied head's would be twice as many bytes.
std::string OnnxWriter::weight(ValueId id, const Shape& shape, const std::vector<int>& order,
                               const std::string& scope) {
    const Value& one = value(id);
    const Shape whole = one.shape_outside();
    const auto reshaped = [&](const std::string& name) {
        std::vector<std::int64_t> dims;
        for (int dim = 0; dim < shape.rank(); ++dim)
            dims.push_back(shape[dim]);
        return to_.add(scope, "Reshape", {name, to_.integers(dims)}, {})[0];
    };
    if (is_weight(id) && (order.empty() || to_.tensor(one.name) == nullptr)) {
        const std::string name = order.empty() ? one.name : one.name + ".transposed";
        const OnnxTensor* known = to_.tensor(name);
        if (known != nullptr) return known->shape == shape ? name : reshaped(name);
        const std::vector<std::int64_t> start(static_cast<std::size_t>(whole.rank()), 0);
        to_.add_tensor({name, shape, {{one.name, whole, start, whole, order}}});
        return name;
    }
    std::string name = name_of(id);
    if (!order.empty()) {
        const std::vector<std::int64_t> dims(order.begin(), order.end());
        name = to_.add(scope, "Transpose", {name}, {{"perm", dims}})[0];
    }
    const bool fits = order.empty() ? shape == whole : shape.rank() == whole.rank();
    return fits ? name : reshaped(name);
}

const Node* product_before(const Graph& graph, const Node& node) {
    if (node.op->name() != "lstm" && node.op->name() != "gru") return nullptr;
    const Value& x = graph.value(node.inputs[0]);
    if (x.producer < 0) return nullptr;
    const Node& product = graph.nodes()[static_cast<std::size_t>(x.producer)];
    const bool fits = product.op->name() == "linear" && product.op->attributes().integer("contracted") == 1 &&
                      graph.value(product.inputs[1]).kind == ValueKind::parameter;
    return fits ? &product : nullptr;
}

namespace {

// Of each node whether it is needed: what a recurrent op takes over from the product before it is not.
std::vector<bool> needed_nodes(const Graph& graph, std::span<const ValueId> outputs) {
    std::vector<bool> needed(graph.nodes().size(), false);
    std::vector<ValueId> wanted(outputs.begin(), outputs.end());
    while (!wanted.empty()) {
        const std::int32_t producer = graph.value(wanted.back()).producer;
        wanted.pop_back();
        if (producer < 0 || needed[static_cast<std::size_t>(producer)]) continue;
        needed[static_cast<std::size_t>(producer)] = true;
        const Node& node = graph.nodes()[static_cast<std::size_t>(producer)];
        const Node* product = product_before(graph, node);
        for (const ValueId input : node.inputs)
            wanted.push_back(product != nullptr && input == node.inputs[0] ? product->inputs[0] : input);
    }
    return needed;
}

void declare_inputs_of(const Graph& graph, const Node& node, OnnxWriter& writer) {
    for (const ValueId id : node.inputs) {
        const Value& value = graph.value(id);
        if (value.kind != ValueKind::input || value.of_step) continue;
        const auto& known = writer.to().inputs();
        if (std::ranges::find(known, value.name, &OnnxField::name) != known.end()) continue;
        writer.to().add_input({value.name, value.type.shape, value.type.dtype == DType::i32});
        writer.set(id, value.name);
    }
}

} // namespace

void lower_graph(const Graph& from, std::span<const ValueId> outputs, OnnxWriter& writer) {
    const std::vector<bool> needed = needed_nodes(from, outputs);
    for (std::size_t i = 0; i < needed.size(); ++i) {
        const Node& node = from.nodes()[i];
        if (!needed[i]) continue;
        declare_inputs_of(from, node, writer);
        if (const Node* product = product_before(from, node)) declare_inputs_of(from, *product, writer);
        const auto found = std::ranges::find(onnx_lowerings(), node.op->name(), &OnnxLoweringOf::op);
        OnnxLowering lowering(writer, node);
        if (found == onnx_lowerings().end()) lowering.refuse("is not written in ONNX's operators");
        found->lower(lowering);
    }
}

} // namespace tessera
