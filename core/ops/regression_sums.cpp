// SPDX-License-Identifier: Apache-2.0
// regression_sums: of each number of a sample, over the samples: the targets' distances from a centre, the
// squares of these, the errors' squares.
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/regression.hpp"

namespace tessera {
namespace {

class RegressionSums final : public Op { // y, targets, centres -> (3, K)
public:
    std::string_view name() const override { return "regression_sums"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("y", in[0].dtype);
        expect_dims("y", in[0], 2);
        expect_dtype("targets", in[1].dtype, DType::f32);
        expect_shape("targets", in[1].shape, in[0].shape);
        expect_dtype("centres", in[2].dtype, DType::f32);
        expect_shape("centres", in[2].shape, {in[0].shape.count(1, in[0].shape.rank())});
        return {{{3, in[0].shape.count(1, in[0].shape.rank())}, DType::f32}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        return {{{Placement::shard(0), Placement::shard(0), Placement::replicate()}, {Placement::partial()}}};
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::regression_sums(s, a.inputs[0], a.inputs[1], a.inputs[2], a.outputs[0]); },
                   stream);
    }
    std::vector<ExampleInput> example() const override {
        return {{{{6, 5}, DType::f32}, false}, {{{6, 5}, DType::f32}, false}, {{{5}, DType::f32}, false}};
    }
};

} // namespace

OpPointer make_regression_sums() { return std::make_shared<RegressionSums>(); }

ValueId ops::regression_sums(Graph& graph, std::string name, ValueId y, ValueId targets, ValueId centres) {
    return graph.apply_one(make_regression_sums(), std::move(name), {y, targets, centres});
}

} // namespace tessera
