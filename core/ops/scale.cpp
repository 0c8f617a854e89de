// SPDX-License-Identifier: Apache-2.0
// scale: y = factor * x, and its gradient, which is the same of dy.
#include "core/graph/attributes.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"

namespace tessera {
namespace {

class Scale final : public Op {
public:
    explicit Scale(double factor) : factor_(static_cast<float>(factor)) {}
    std::string_view name() const override { return "scale"; }
    Attributes attributes() const override { return {{"factor", factor_}}; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("x", in[0].dtype);
        return {in[0]};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        return {graph.apply_one(node.op, node.name + ".gradient", {dy[0]})};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules = elementwise_rules(in[0].shape.rank(), 1, 1);
        rules.push_back({{Placement::partial()}, {Placement::partial()}});
        return rules;
    }
    int in_place_input() const override { return 0; }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::scale(s, a.inputs[0], factor_, a.outputs[0]); }, stream);
    }
    std::vector<ExampleInput> example() const override { return {{{{4, 5, 18}, DType::f32}}}; }

private:
    float factor_;
};

} // namespace

OpPointer make_scale(double factor) { return std::make_shared<Scale>(factor); }

ValueId ops::scale(Graph& graph, std::string name, ValueId x, double factor) {
    return graph.apply_one(make_scale(factor), std::move(name), {x});
}

} // namespace tessera
