// SPDX-License-Identifier: Apache-2.0
// activation: GELU, ReLU or SiLU, element by element, and its gradient.
#include "core/graph/attributes.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"

namespace tessera {
namespace {

class ActivationGradient final : public Op {
public:
    explicit ActivationGradient(Activation function) : function_(function) {}
    std::string_view name() const override { return "activation_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[0]}; } // x (ReLU: y), dy
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        return elementwise_rules(in[0].shape.rank(), 2, 1);
    }
    int in_place_input() const override { return 1; }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::activation_gradient(s, function_, a.inputs[0], a.inputs[1], a.outputs[0]); },
                   stream);
    }

private:
    Activation function_;
};

class ActivationOp final : public Op {
public:
    explicit ActivationOp(Activation function) : function_(function) {}
    std::string_view name() const override { return "activation"; }
    Attributes attributes() const override { return {{"function", name_of(function_)}}; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("x", in[0].dtype);
        return {in[0]};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        // y is above 0 where x is: what comes next often keeps it, so that x need not be kept
        const ValueId of = function_ == Activation::relu ? node.outputs[0] : node.inputs[0];
        return graph.apply(std::make_shared<ActivationGradient>(function_), node.name + ".gradient", {of, dy[0]});
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        return elementwise_rules(in[0].shape.rank(), 1, 1);
    }
    int in_place_input() const override { return 0; }
    bool is_cheap() const override { return true; }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::activation(s, function_, a.inputs[0], a.outputs[0]); }, stream);
    }
    std::vector<ExampleInput> example() const override { return {{{{4, 6, 20}, DType::f32}}}; }

private:
    Activation function_;
};

} // namespace

OpPointer make_activation(Activation function) { return std::make_shared<ActivationOp>(function); }

ValueId ops::activation(Graph& graph, std::string name, Activation function, ValueId x) {
    return graph.apply_one(make_activation(function), std::move(name), {x});
}

} // namespace tessera
