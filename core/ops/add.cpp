// SPDX-License-Identifier: Apache-2.0
// add: the residual connection, and the sum of two gradients.
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"

namespace tessera {
namespace {

class Add final : public Op {
public:
    std::string_view name() const override { return "add"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("a", in[0].dtype);
        expect_shape("b", in[1].shape, in[0].shape);
        expect_dtype("b", in[1].dtype, in[0].dtype);
        return {in[0]};
    }
    std::vector<ValueId> gradient(Graph&, const Node&, std::span<const ValueId> dy) const override {
        return {dy[0], dy[0]};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules = elementwise_rules(in[0].shape.rank(), 2, 1);
        const Placement partial = Placement::partial(); // a sum of sums still owed is a sum still owed
        rules.push_back({{partial, partial}, {partial}});
        return rules;
    }
    int in_place_input() const override { return 0; }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::add(s, a.inputs[0], a.inputs[1], a.outputs[0]); }, stream);
    }
    std::vector<ExampleInput> example() const override {
        return {{{{4, 5, 18}, DType::f32}}, {{{4, 5, 18}, DType::f32}}};
    }
};

} // namespace

OpPointer make_add() { return std::make_shared<Add>(); }

ValueId ops::add(Graph& graph, std::string name, ValueId a, ValueId b) {
    return graph.apply_one(make_add(), std::move(name), {a, b});
}

} // namespace tessera
