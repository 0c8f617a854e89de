// SPDX-License-Identifier: Apache-2.0
// accuracy: how many rows of logits are right about their class; counts in f32, which are exact up to 2^24.
#include "kernels/accuracy.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/reduce.hpp"

namespace tessera {
namespace {

class Accuracy final : public Op { // logits, targets -> count
public:
    std::string_view name() const override { return "accuracy"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("logits", in[0].dtype);
        expect_dims("logits", in[0], 1);
        expect_dtype("targets", in[1].dtype, DType::i32);
        expect_shape("targets", in[1].shape, in[0].shape.slice(0, in[0].shape.rank() - 1));
        return {{{}, DType::f32}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim + 1 < in[0].shape.rank(); ++dim)
            rules.push_back({{Placement::shard(dim), Placement::shard(dim)}, {Placement::partial()}});
        return rules;
    }
    std::int64_t workspace_bytes(const Stream&, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return in[1].shape.count() * bytes_of(DType::f32);
    }
    void run(Stream& stream, const Operands& a) const override {
        const View hits(a.workspace.memory(), a.inputs[1].shape, DType::f32);
        std::visit(
            [&](auto& s) {
                kernels::accuracy(s, a.inputs[0], a.inputs[1], hits);
                kernels::sum(s, hits, a.outputs[0]);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        return {{{{4, 6, 3}, DType::f32}, false}, {{{4, 6}, DType::i32}, false, 3}};
    }
};

} // namespace

OpPointer make_accuracy() { return std::make_shared<Accuracy>(); }

ValueId ops::accuracy(Graph& graph, std::string name, ValueId logits, ValueId targets) {
    return graph.apply_one(make_accuracy(), std::move(name), {logits, targets});
}

} // namespace tessera
