// SPDX-License-Identifier: Apache-2.0
// combine: what the experts made of a token, weighted by its gates, and the gradients.
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "core/ops/routing.hpp"

namespace tessera {
namespace {

class CombineGradient final : public Op { // dx, y, gates, slots -> dy, dgates
public:
    std::string_view name() const override { return "combine_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[1], in[2]}; }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        const Placement samples = Placement::shard(0), whole = Placement::replicate(), partial = Placement::partial();
        return {{{samples, Placement::shard(1), samples, samples}, {Placement::shard(1), samples}},
                {{whole, partial, whole, whole}, {whole, partial}}};
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::combine_experts_gradient(s, routing_of(a.inputs[1].shape, a.inputs[3].shape), a.inputs[0],
                                                  a.inputs[1], a.inputs[2], a.inputs[3], a.outputs[0], a.outputs[1]);
            },
            stream);
    }
};

class Combine final : public Op { // y, gates, slots -> x
public:
    std::string_view name() const override { return "combine"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("y", in[0].dtype);
        expect_dtype("gates", in[1].dtype, DType::f32);
        expect_dtype("slots", in[2].dtype, DType::i32);
        const Shape &y = in[0].shape, &slots = in[2].shape;
        if (y.rank() != 4)
            throw ConfigError(fmt::format("y is {}, expected (experts, batch, capacity, width)", y.text()));
        if (slots.rank() != 3 || slots[0] != y[1])
            throw ConfigError(fmt::format("slots is {}, expected ({}, time, choices)", slots.text(), y[1]));
        expect_shape("gates", in[1].shape, slots);
        return {{{slots[0], slots[1], y[3]}, in[0].dtype}};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dx) const override {
        const std::vector<ValueId> made = graph.apply(std::make_shared<CombineGradient>(), node.name + ".gradient",
                                                      {dx[0], node.inputs[0], node.inputs[1], node.inputs[2]});
        return {made[0], made[1], no_value};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        const Placement samples = Placement::shard(0), whole = Placement::replicate(), partial = Placement::partial();
        return {{{Placement::shard(1), samples, samples}, {samples}}, {{partial, whole, whole}, {partial}}};
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::combine_experts(s, routing_of(a.inputs[0].shape, a.inputs[2].shape), a.inputs[0], a.inputs[1],
                                         a.inputs[2], a.outputs[0]);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        return {{{{3, 3, 2, 18}, DType::f32}},
                {{{3, 4, 2}, DType::f32}},
                {{{3, 4, 2}, DType::i32}, false, 0, 0, write_example_slots}};
    }
};

} // namespace

OpPointer make_combine() { return std::make_shared<Combine>(); }

ValueId ops::combine(Graph& graph, std::string name, ValueId y, ValueId gates, ValueId slots) {
    return graph.apply_one(make_combine(), std::move(name), {y, gates, slots});
}

} // namespace tessera
