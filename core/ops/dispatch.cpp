// SPDX-License-Identifier: Apache-2.0
// dispatch: the tokens of each expert, side by side; its gradient brings theirs back. Ranks that share out samples hand
// the tokens on to ranks that share out experts: one all-to-all, between this op and expert_linear.
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "core/ops/routing.hpp"

namespace tessera {
namespace {

class DispatchGradient final : public Op { // dy, slots -> dx
public:
    std::string_view name() const override { return "dispatch_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        return {{{in[1].shape[0], in[1].shape[1], in[0].shape[3]}, in[0].dtype}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        const Placement partial = Placement::partial();
        return {{{Placement::shard(1), Placement::shard(0)}, {Placement::shard(0)}},
                {{partial, Placement::replicate()}, {partial}}};
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::dispatch_tokens_gradient(s, routing_of(a.inputs[0].shape, a.inputs[1].shape), a.inputs[0],
                                                  a.inputs[1], a.outputs[0]);
            },
            stream);
    }
};

class Dispatch final : public Op { // x, slots -> y
public:
    Dispatch(std::int64_t experts, std::int64_t capacity) : experts_(experts), capacity_(capacity) {}
    std::string_view name() const override { return "dispatch"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("x", in[0].dtype);
        expect_dtype("slots", in[1].dtype, DType::i32);
        const Shape &x = in[0].shape, &slots = in[1].shape;
        if (x.rank() != 3) throw ConfigError(fmt::format("x is {}, expected (batch, time, width)", x.text()));
        if (slots.rank() != 3 || slots.slice(0, 2) != x.slice(0, 2))
            throw ConfigError(fmt::format("slots is {}, expected ({}, {}, choices)", slots.text(), x[0], x[1]));
        return {{{experts_, x[0], capacity_, x[2]}, in[0].dtype}};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        return {graph.apply_one(std::make_shared<DispatchGradient>(), node.name + ".gradient", {dy[0], node.inputs[1]}),
                no_value};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        return {{{Placement::shard(0), Placement::shard(0)}, {Placement::shard(1)}}};
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::dispatch_tokens(s, routing_of(a.outputs[0].shape, a.inputs[1].shape), a.inputs[0], a.inputs[1],
                                         a.outputs[0]);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        return {{{{3, 4, 18}, DType::f32}}, {{{3, 4, 2}, DType::i32}, false, 0, 0, write_example_slots}};
    }

private:
    std::int64_t experts_, capacity_;
};

} // namespace

// Of 3 samples of 4 tokens with 2 choices among 3 experts that take 2 tokens each.
void write_example_slots(const StepState&, const View& host) {
    constexpr std::int32_t slots[] = {0, 2, 3,  4,  1,       5, -2, -3, /**/ 4, 0, 5, 1,
                                      2, 3, -1, -3, /**/ -1, 5, 0,  2,  1,      3, 4, -2};
    std::copy(std::begin(slots), std::end(slots), host.as<std::int32_t>());
}

OpPointer make_dispatch(std::int64_t experts, std::int64_t capacity) {
    return std::make_shared<Dispatch>(experts, capacity);
}

ValueId ops::dispatch(Graph& graph, std::string name, ValueId x, ValueId slots, std::int64_t experts,
                      std::int64_t capacity) {
    return graph.apply_one(make_dispatch(experts, capacity), std::move(name), {x, slots});
}

} // namespace tessera
