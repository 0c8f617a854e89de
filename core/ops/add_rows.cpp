// SPDX-License-Identifier: Apache-2.0
// add_rows: one row added to every leading index: position tables and biases.
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"

namespace tessera {
namespace {

class AddRows final : public Op {
public:
    std::string_view name() const override { return "add_rows"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("x", in[0].dtype);
        expect_floating("row", in[1].dtype);
        const int leading = in[0].shape.rank() - in[1].shape.rank();
        expect_dims("x", in[0], in[1].shape.rank());
        expect_shape("row", in[1].shape, in[0].shape.slice(leading, in[0].shape.rank()));
        return {in[0]};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        const int dims = graph.value(node.inputs[1]).type.shape.rank();
        return {dy[0], ops::sum_rows(graph, node.name + ".row_gradient", dy[0], dims)};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        const int leading = in[0].shape.rank() - in[1].shape.rank();
        for (int dim = 0; dim < in[0].shape.rank(); ++dim)
            rules.push_back(
                {{Placement::shard(dim), dim < leading ? Placement::replicate() : Placement::shard(dim - leading)},
                 {Placement::shard(dim)}});
        return rules;
    }
    int in_place_input() const override { return 0; }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::add_rows(s, a.inputs[0], a.inputs[1], a.outputs[0]); }, stream);
    }
    std::vector<ExampleInput> example() const override { return {{{{4, 6, 18}, DType::f32}}, {{{6, 18}, DType::f32}}}; }
};

} // namespace

OpPointer make_add_rows() { return std::make_shared<AddRows>(); }

ValueId ops::add_rows(Graph& graph, std::string name, ValueId x, ValueId row) {
    return graph.apply_one(make_add_rows(), std::move(name), {x, row});
}

} // namespace tessera
