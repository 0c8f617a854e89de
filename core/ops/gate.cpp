// SPDX-License-Identifier: Apache-2.0
// gate: the product of an activation of one tensor and another tensor, element by element, and its gradients.
#include "core/graph/attributes.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"

namespace tessera {
namespace {

class GateGradient final : public Op { // gate, x, dy -> dx, dgate
public:
    explicit GateGradient(Activation function) : function_(function) {}
    std::string_view name() const override { return "gate_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[0], in[0]}; }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        return elementwise_rules(in[0].shape.rank(), 3, 2);
    }
    int in_place_input() const override { return 2; }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::gate_gradient(s, function_, a.inputs[0], a.inputs[1], a.inputs[2], a.outputs[1], a.outputs[0]);
            },
            stream);
    }

private:
    Activation function_;
};

class Gate final : public Op { // gate, x -> y
public:
    explicit Gate(Activation function) : function_(function) {}
    std::string_view name() const override { return "gate"; }
    Attributes attributes() const override { return {{"function", name_of(function_)}}; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("gate", in[0].dtype);
        expect_shape("x", in[1].shape, in[0].shape);
        expect_dtype("x", in[1].dtype, in[0].dtype);
        return {in[0]};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        const std::vector<ValueId> gradients =
            graph.apply(std::make_shared<GateGradient>(function_), node.name + ".gradient",
                        {node.inputs[0], node.inputs[1], dy[0]});
        return {gradients[1], gradients[0]};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        return elementwise_rules(in[0].shape.rank(), 2, 1);
    }
    bool is_cheap() const override { return true; }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::gate(s, function_, a.inputs[0], a.inputs[1], a.outputs[0]); }, stream);
    }
    std::vector<ExampleInput> example() const override {
        return {{{{4, 6, 20}, DType::f32}}, {{{4, 6, 20}, DType::f32}}};
    }

private:
    Activation function_;
};

} // namespace

OpPointer make_gate(Activation function) { return std::make_shared<Gate>(function); }

ValueId ops::gate(Graph& graph, std::string name, Activation function, ValueId gate, ValueId x) {
    return graph.apply_one(make_gate(function), std::move(name), {gate, x});
}

} // namespace tessera
