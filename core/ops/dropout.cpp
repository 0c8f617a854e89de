// SPDX-License-Identifier: Apache-2.0
// dropout: keyed by seed, step, node name and the element's place in the global batch, never by rank (Philox).
#include "kernels/dropout.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"

namespace tessera {
namespace {

class DropoutOp final : public Op {
public:
    DropoutOp(double probability, std::string stream_name)
        : probability_(static_cast<float>(probability)), stream_name_(std::move(stream_name)) {}
    std::string_view name() const override { return "dropout"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("x", in[0].dtype);
        expect_dims("x", in[0], 1);
        return {in[0]};
    }
    // The gradient passes where the value passed: the same op, hence the same numbers, on dy.
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        return graph.apply(node.op, node.name + ".gradient", {dy[0]});
    }
    // The batch dim only: a shard of another dim would need the global index of each of its elements. The executor
    // knows the first sample of a micro-batch, so a sharded batch draws the same numbers as the whole one.
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        return {{{Placement::shard(0)}, {Placement::shard(0)}}};
    }
    int in_place_input() const override { return 0; }
    bool depends_on_step() const override { return true; }
    void run(Stream& stream, const Operands& a) const override {
        const Shape& shape = a.inputs[0].shape;
        const auto first = static_cast<std::uint64_t>(a.state.first_sample * shape.count(1, shape.rank()));
        const kernels::Dropout dropout{probability_, random_key(a.state.seed, stream_name_),
                                       static_cast<std::uint64_t>(a.state.step), first};
        std::visit([&](auto& s) { kernels::dropout(s, dropout, a.inputs[0], a.outputs[0]); }, stream);
    }
    std::vector<ExampleInput> example() const override { return {{{{4, 6, 20}, DType::f32}}}; }

private:
    float probability_;
    std::string stream_name_;
};

} // namespace

OpPointer make_dropout(double probability, std::string stream_name) {
    return std::make_shared<DropoutOp>(probability, std::move(stream_name));
}

ValueId ops::dropout(Graph& graph, std::string name, ValueId x, double probability) {
    OpPointer op = make_dropout(probability, name);
    return graph.apply_one(std::move(op), std::move(name), {x});
}

} // namespace tessera
