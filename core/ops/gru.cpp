// SPDX-License-Identifier: Apache-2.0
// gru: the cells of a sequence, and their gradient through time.
#include "core/graph/attributes.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "core/ops/recurrent.hpp"

namespace tessera {
namespace {

constexpr std::int64_t gru_gates = 3;

Shape with_gates(Shape shape, std::int64_t count) {
    shape.set(3, count);
    return shape;
}

class GruGradient final : public Op { // w, gates, y, dy[, h0] -> dx, dq
public:
    std::string_view name() const override { return "gru_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        return std::vector<TensorType>(2, {with_gates(in[1].shape, gru_gates), in[1].dtype});
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        return {rule_of_rows(in.size(), std::array<std::size_t, 1>{0}, 2)};
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return recurrent_workspace(stream, recurrent_sizes(in[1].shape), gru_gates, in[1].dtype);
    }
    double flops(std::span<const TensorType>, std::span<const TensorType> out) const override {
        return recurrent_flops(out[0].shape);
    }
    void run(Stream& stream, const Operands& a) const override {
        const ConstView h0 = a.inputs.size() == 5 ? ConstView(a.inputs[4]) : ConstView();
        std::visit(
            [&](auto& s) {
                kernels::gru_gradient(s, recurrent_sizes(a.inputs[1].shape), a.inputs[0], a.inputs[1], a.inputs[2], h0,
                                      a.inputs[3], a.outputs[0], a.outputs[1], a.workspace);
            },
            stream);
    }
};

class Gru final : public Op { // x, w[, bias][, h0] -> y, gates, last h
public:
    explicit Gru(const RecurrentInputs& which) : which_(which) {}
    std::string_view name() const override { return "gru"; }
    Attributes attributes() const override { return {{"bias", which_.bias}, {"states", which_.states}}; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_recurrent(in, which_, gru_gates, 1);
        const Shape& x = in[0].shape;
        return {{{x[0], x[1], x[2] * x[4]}, in[0].dtype},
                {with_gates(x, 4), in[0].dtype},
                {{x[0], x[2] * x[4]}, DType::f32}};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        const ValueId h0 = which_.states ? node.inputs[which_.first_state()] : no_value;
        std::vector<ValueId> inputs{node.inputs[1], node.outputs[1], node.outputs[0], dy[0]};
        if (which_.states) inputs.push_back(h0);
        const std::vector<ValueId> made =
            graph.apply(std::make_shared<GruGradient>(), node.name + ".gradient", std::move(inputs));
        std::vector<ValueId> gradients(node.inputs.size(), no_value);
        gradients[0] = made[0];
        gradients[1] = recurrent_weight_gradient(graph, node.name + ".weight_gradient", made[1], node.outputs[0], h0);
        if (which_.bias) gradients[2] = ops::sum_rows(graph, node.name + ".bias_gradient", made[1], 3);
        return gradients;
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        const std::array<std::size_t, 2> shared{1, 2};
        return {rule_of_rows(in.size(), std::span(shared).first(which_.bias ? 2 : 1), 3)};
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return recurrent_workspace(stream, recurrent_sizes(in[0].shape), gru_gates, in[0].dtype);
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType>) const override {
        return recurrent_flops(in[0].shape);
    }
    void run(Stream& stream, const Operands& a) const override {
        const ConstView bias = which_.bias ? ConstView(a.inputs[2]) : ConstView();
        const ConstView h0 = which_.states ? ConstView(a.inputs[which_.first_state()]) : ConstView();
        std::visit(
            [&](auto& s) {
                kernels::gru(s, recurrent_sizes(a.inputs[0].shape), a.inputs[0], a.inputs[1], bias, h0, a.outputs[0],
                             a.outputs[1], a.outputs[2], a.workspace);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        const std::int64_t directions = which_.states ? 1 : 2;
        std::vector<ExampleInput> inputs{{{{4, 2, directions, gru_gates, 8}, DType::f32}},
                                         {{{directions, gru_gates, 8, 8}, DType::f32}}};
        if (which_.bias) inputs.push_back({{{directions, gru_gates, 8}, DType::f32}});
        if (which_.states) inputs.push_back({{{4, directions * 8}, DType::f32}, false});
        return inputs;
    }

private:
    RecurrentInputs which_;
};

} // namespace

OpPointer make_gru(bool bias, bool states) { return std::make_shared<Gru>(RecurrentInputs{bias, states}); }

ops::GruOutputs ops::gru(Graph& graph, std::string name, ValueId x, ValueId w, ValueId bias, ValueId h) {
    std::vector<ValueId> inputs{x, w};
    if (bias != no_value) inputs.push_back(bias);
    if (h != no_value) inputs.push_back(h);
    const std::vector<ValueId> made =
        graph.apply(make_gru(bias != no_value, h != no_value), std::move(name), std::move(inputs));
    return {made[0], made[2]};
}

} // namespace tessera
