// SPDX-License-Identifier: Apache-2.0
// lstm: the cells of a sequence, and their gradient through time.
#include "core/graph/attributes.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "core/ops/recurrent.hpp"

namespace tessera {
namespace {

constexpr std::int64_t lstm_gates = 4;

class LstmGradient final : public Op { // w, gates, cells, dy[, c0] -> dx
public:
    std::string_view name() const override { return "lstm_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[1]}; }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        return {rule_of_rows(in.size(), std::array<std::size_t, 1>{0}, 1)};
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return recurrent_workspace(stream, recurrent_sizes(in[1].shape), lstm_gates, in[1].dtype);
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType>) const override {
        return recurrent_flops(in[1].shape);
    }
    void run(Stream& stream, const Operands& a) const override {
        const ConstView c0 = a.inputs.size() == 5 ? ConstView(a.inputs[4]) : ConstView();
        std::visit(
            [&](auto& s) {
                kernels::lstm_gradient(s, recurrent_sizes(a.inputs[1].shape), a.inputs[0], a.inputs[1], a.inputs[2], c0,
                                       a.inputs[3], a.outputs[0], a.workspace);
            },
            stream);
    }
};

class Lstm final : public Op { // x, w[, bias][, h0, c0] -> y, gates, cells, last h, last c
public:
    explicit Lstm(const RecurrentInputs& which) : which_(which) {}
    std::string_view name() const override { return "lstm"; }
    Attributes attributes() const override { return {{"bias", which_.bias}, {"states", which_.states}}; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_recurrent(in, which_, lstm_gates, 2);
        const Shape& x = in[0].shape;
        const Shape y{x[0], x[1], x[2] * x[4]};
        const TensorType state{{x[0], x[2] * x[4]}, DType::f32};
        return {{y, in[0].dtype}, in[0], {y, DType::f32}, state, state};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        std::vector<ValueId> inputs{node.inputs[1], node.outputs[1], node.outputs[2], dy[0]};
        if (which_.states) inputs.push_back(node.inputs[which_.first_state() + 1]);
        const ValueId dx = graph.apply_one(std::make_shared<LstmGradient>(), node.name + ".gradient", inputs);
        std::vector<ValueId> gradients(node.inputs.size(), no_value);
        gradients[0] = dx;
        gradients[1] = recurrent_weight_gradient(graph, node.name + ".weight_gradient", dx, node.outputs[0],
                                                 which_.states ? node.inputs[which_.first_state()] : no_value);
        if (which_.bias) gradients[2] = ops::sum_rows(graph, node.name + ".bias_gradient", dx, 3);
        return gradients;
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        const std::array<std::size_t, 2> shared{1, 2};
        return {rule_of_rows(in.size(), std::span(shared).first(which_.bias ? 2 : 1), 5)};
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return recurrent_workspace(stream, recurrent_sizes(in[0].shape), lstm_gates, in[0].dtype);
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType>) const override {
        return recurrent_flops(in[0].shape);
    }
    void run(Stream& stream, const Operands& a) const override {
        const ConstView bias = which_.bias ? ConstView(a.inputs[2]) : ConstView();
        kernels::LstmState state{{}, {}, a.outputs[3], a.outputs[4]};
        if (which_.states) {
            state.h0 = a.inputs[which_.first_state()];
            state.c0 = a.inputs[which_.first_state() + 1];
        }
        std::visit(
            [&](auto& s) {
                kernels::lstm(s, recurrent_sizes(a.inputs[0].shape), a.inputs[0], a.inputs[1], bias, state,
                              a.outputs[0], a.outputs[1], a.outputs[2], a.workspace);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        std::vector<ExampleInput> inputs{{{{4, 2, which_.states ? 1 : 2, lstm_gates, 4}, DType::f32}}};
        const std::int64_t directions = inputs[0].type.shape[2];
        inputs.push_back({{{directions, lstm_gates, 4, 4}, DType::f32}});
        if (which_.bias) inputs.push_back({{{directions, lstm_gates, 4}, DType::f32}});
        for (int state = 0; which_.states && state < 2; ++state)
            inputs.push_back({{{4, directions * 4}, DType::f32}, false});
        return inputs;
    }

private:
    RecurrentInputs which_;
};

} // namespace

OpPointer make_lstm(bool bias, bool states) { return std::make_shared<Lstm>(RecurrentInputs{bias, states}); }

ops::LstmOutputs ops::lstm(Graph& graph, std::string name, ValueId x, ValueId w, ValueId bias,
                           const LstmStates& before) {
    std::vector<ValueId> inputs{x, w};
    if (bias != no_value) inputs.push_back(bias);
    const bool states = before.h != no_value;
    if (states) inputs.insert(inputs.end(), {before.h, before.c});
    const std::vector<ValueId> made =
        graph.apply(make_lstm(bias != no_value, states), std::move(name), std::move(inputs));
    return {made[0], {made[3], made[4]}};
}

} // namespace tessera
