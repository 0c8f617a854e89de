// SPDX-License-Identifier: Apache-2.0
// flatten: the elements of each sample as one row; nothing moves where the input's memory may be taken over.
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/copy.hpp"

namespace tessera {
namespace {

// x: (B, …) -> (B, sample…), as many elements
class Reshape final : public Op {
public:
    Reshape(std::string_view name, const Shape& sample) : name_(name), sample_(sample) {}
    std::string_view name() const override { return name_; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("x", in[0].dtype);
        expect_dims("x", in[0], 2);
        Shape shape{in[0].shape[0]};
        if (sample_.rank() == 0) shape.append(in[0].shape.count(1, in[0].shape.rank()));
        for (int dim = 0; dim < sample_.rank(); ++dim)
            shape.append(sample_[dim]);
        return {{shape, in[0].dtype}};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        const Shape& x = graph.value(node.inputs[0]).type.shape;
        return {graph.apply_one(std::make_shared<Reshape>("flatten_gradient", x.slice(1, x.rank())),
                                node.name + ".gradient", {dy[0]})};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        return {{{Placement::shard(0)}, {Placement::shard(0)}}};
    }
    int in_place_input() const override { return 0; }
    bool is_cheap() const override { return true; }
    void run(Stream& stream, const Operands& a) const override {
        if (a.inputs[0].data == a.outputs[0].data) return;
        std::visit([&](auto& s) { kernels::cast(s, a.inputs[0], a.outputs[0]); }, stream);
    }
    std::vector<ExampleInput> example() const override { return {{{{4, 3, 2, 5}, DType::f32}}}; }

private:
    std::string_view name_;
    Shape sample_; // no dims: one, of all
};

} // namespace

OpPointer make_flatten() { return std::make_shared<Reshape>("flatten", Shape()); }

ValueId ops::flatten(Graph& graph, std::string name, ValueId x) {
    return graph.apply_one(make_flatten(), std::move(name), {x});
}

} // namespace tessera
