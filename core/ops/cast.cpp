// SPDX-License-Identifier: Apache-2.0
// cast: another element type; the gradient comes back in the input's type.
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/copy.hpp"

namespace tessera {
namespace {

class Cast final : public Op {
public:
    explicit Cast(DType dtype) : dtype_(dtype) {}
    std::string_view name() const override { return "cast"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("x", in[0].dtype);
        return {{in[0].shape, dtype_}};
    }
    // A weight's gradient is f32 already, whatever the weight was cast to: then there is nothing to do.
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        const DType wanted = graph.value(node.inputs[0]).type.dtype;
        if (graph.value(dy[0]).type.dtype == wanted) return {dy[0]};
        return {ops::cast(graph, node.name + ".gradient", dy[0], wanted)};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        return elementwise_rules(in[0].shape.rank(), 1, 1);
    }
    std::optional<std::vector<Placement>> placed(std::span<const TensorType> types,
                                                 std::span<const Placement> inputs) const override {
        if (inputs[0] == Placement::flat()) return std::vector<Placement>{Placement::flat()};
        return Op::placed(types, inputs);
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::cast(s, a.inputs[0], a.outputs[0]); }, stream);
    }
    std::vector<ExampleInput> example() const override { return {{{{4, 6, 19}, DType::f32}}}; }

private:
    DType dtype_;
};

} // namespace

OpPointer make_cast(DType dtype) { return std::make_shared<Cast>(dtype); }

ValueId ops::cast(Graph& graph, std::string name, ValueId x, DType dtype) {
    return graph.apply_one(make_cast(dtype), std::move(name), {x});
}

} // namespace tessera
