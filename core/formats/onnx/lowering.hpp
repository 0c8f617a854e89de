// SPDX-License-Identifier: Apache-2.0
// Our ops in ONNX's operators: one function per op, in the file of its family; lowering.cpp lists them. An op that is
// not in the list is refused by its layer's name.
#pragma once

#include "core/formats/onnx/graph.hpp"
#include "core/graph/attributes.hpp"
#include "core/graph/graph.hpp"

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// A graph on its way. Values are built for a batch of one; what is written must not depend on it: a constant with a
// batch is one row, which broadcasts.
class OnnxWriter {
public:
    OnnxWriter(const Graph& from, OnnxGraph& to) : from_(from), to_(to) {}

    const Graph& from() const { return from_; }
    OnnxGraph& to() { return to_; }
    const Value& value(ValueId id) const { return from_.value(id); }

    // The name of what a value has become. Parameters and states are weights of the file, numbers of a step constants.
    std::string name_of(ValueId id);
    // Of an image (N, H, W, C): as (N, C, H, W), which ONNX's operators want. Transposed once, and back once.
    std::string channels_first(ValueId id);
    // Whether it lies so already, and not otherwise.
    bool is_channels_first(ValueId id) const;
    void set(ValueId id, std::string name) { plain_[id] = std::move(name); }
    void set_channels_first(ValueId id, std::string name) { channels_first_[id] = std::move(name); }

    // A weight in another shape of as many elements, its dims in another order before that (empty: as they are).
    std::string weight(ValueId id, const Shape& shape, const std::vector<int>& order, const std::string& scope);
    // Of a step input: what it holds in any step.
    std::vector<std::int64_t> numbers_of(ValueId id) const;
    bool is_step_input(ValueId id) const { return static_cast<bool>(value(id).of_step); }

private:
    bool is_weight(ValueId id) const;

    const Graph& from_;
    OnnxGraph& to_;
    std::map<ValueId, std::string> plain_, channels_first_;
};

// What a lowering sees of one node, and how it adds its operators.
class OnnxLowering {
public:
    OnnxLowering(OnnxWriter& writer, const Node& node)
        : writer_(writer), node_(node), attributes_(node.op->attributes()) {}

    const Attributes& attributes() const { return attributes_; }
    const Node& node() const { return node_; }
    OnnxWriter& writer() { return writer_; }
    OnnxGraph& graph() { return writer_.to(); }

    std::size_t inputs() const { return node_.inputs.size(); }
    // As the world outside the graph knows it: a padded vocabulary without its padding.
    Shape shape(std::size_t input) const { return writer_.value(node_.inputs[input]).shape_outside(); }
    const Shape& result(std::size_t output) const { return writer_.value(node_.outputs[output]).type.shape; }

    std::string in(std::size_t input) { return writer_.name_of(node_.inputs[input]); }
    std::string image(std::size_t input) { return writer_.channels_first(node_.inputs[input]); }
    bool is_image(std::size_t input) const { return writer_.is_channels_first(node_.inputs[input]); }
    std::string weight(std::size_t input) { return weight(input, shape(input)); }
    std::string weight(std::size_t input, const Shape& shape, const std::vector<int>& order = {}) {
        return writer_.weight(node_.inputs[input], shape, order, node_.name);
    }

    std::string add(std::string op, std::vector<std::string> inputs, OnnxAttributes attributes = {}) {
        return graph().add(node_.name, std::move(op), std::move(inputs), std::move(attributes))[0];
    }
    std::vector<std::string> add_several(std::string op, std::vector<std::string> inputs, OnnxAttributes attributes,
                                         std::size_t outputs) {
        return graph().add(node_.name, std::move(op), std::move(inputs), std::move(attributes), outputs);
    }
    std::string scalar(double value) { return graph().scalar(static_cast<float>(value)); }
    std::string transposed(std::string x, std::vector<std::int64_t> order) {
        return add("Transpose", {std::move(x)}, {{"perm", std::move(order)}});
    }
    // 0: as it was; at most one -1: what is left.
    std::string reshaped(std::string x, const std::vector<std::int64_t>& shape) {
        return add("Reshape", {std::move(x), graph().integers(shape)});
    }

    void out(std::size_t output, std::string name) { writer_.set(node_.outputs[output], std::move(name)); }
    void out_image(std::size_t output, std::string name) {
        writer_.set_channels_first(node_.outputs[output], std::move(name));
    }

    // ConfigError: "'layers.0.softplus' (op softplus): …".
    [[noreturn]] void refuse(std::string_view why) const;

private:
    OnnxWriter& writer_;
    const Node& node_;
    Attributes attributes_;
};

struct OnnxLoweringOf {
    std::string_view op; // its name
    void (*lower)(OnnxLowering&);
};

// Alphabetical.
std::span<const OnnxLoweringOf> onnx_lowerings();

// y = f(x), of one of kernels/elementwise.hpp's functions by its name.
std::string onnx_activation(OnnxLowering& to, std::string_view function, const std::string& x);

// Of a recurrent op: the product that makes its first input, of which ONNX's operators are a part. Null: there is none.
const Node* product_before(const Graph& graph, const Node& node);

// By families (core/formats/onnx/FAMILY.cpp), each alphabetical.
void lower_attention(OnnxLowering& to);
void lower_cross_attention(OnnxLowering& to);
void lower_rotary(OnnxLowering& to);

void lower_activation(OnnxLowering& to);
void lower_add(OnnxLowering& to);
void lower_add_rows(OnnxLowering& to);
void lower_concatenate(OnnxLowering& to);
void lower_gate(OnnxLowering& to);
void lower_scale(OnnxLowering& to);

void lower_combine(OnnxLowering& to);
void lower_dispatch(OnnxLowering& to);
void lower_expert_linear(OnnxLowering& to);
void lower_route(OnnxLowering& to);

void lower_average_pool(OnnxLowering& to);
void lower_convolution(OnnxLowering& to);
void lower_max_pool(OnnxLowering& to);
void lower_transposed_convolution(OnnxLowering& to);

void lower_batch_norm(OnnxLowering& to);
void lower_layer_norm(OnnxLowering& to);
void lower_residual_norm(OnnxLowering& to);
void lower_rms_norm(OnnxLowering& to);

void lower_embedding(OnnxLowering& to);
void lower_flatten(OnnxLowering& to);
void lower_linear(OnnxLowering& to);
void lower_place_rows(OnnxLowering& to);

void lower_gru(OnnxLowering& to);
void lower_lstm(OnnxLowering& to);

void lower_leave_out(OnnxLowering& to);
void lower_shift_tokens(OnnxLowering& to);
void lower_token_segments(OnnxLowering& to);
void lower_token_types(OnnxLowering& to);

// Appends what leads to `outputs`, and declares the graph's inputs (named as ours) where they are used. ConfigError for
// an op that is not written in ONNX's operators.
void lower_graph(const Graph& from, std::span<const ValueId> outputs, OnnxWriter& writer);

} // namespace tessera
