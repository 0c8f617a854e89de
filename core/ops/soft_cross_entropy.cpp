// SPDX-License-Identifier: Apache-2.0
// soft_cross_entropy: of probabilities of classes, for training; it writes the logits' gradient in their place. Logits
// whose classes are cut are gathered: the plan leads them to where all classes are.
#include "kernels/soft_cross_entropy.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/reduce.hpp"

namespace tessera {
namespace {

class SoftCrossEntropy final : public Op { // logits, probabilities, scale -> dlogits, loss
public:
    SoftCrossEntropy(std::int64_t classes, double smoothing)
        : classes_(classes), smoothing_(static_cast<float>(smoothing)) {}
    std::string_view name() const override { return "soft_cross_entropy"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("logits", in[0].dtype);
        expect_dims("logits", in[0], 2);
        if (in[0].shape[-1] < classes_)
            throw ConfigError(fmt::format("logits is {}, expected at least {} columns", in[0].shape.text(), classes_));
        Shape wanted = in[0].shape.slice(0, in[0].shape.rank() - 1);
        wanted.append(classes_);
        expect_dtype("probabilities", in[1].dtype, DType::f32);
        expect_shape("probabilities", in[1].shape, wanted);
        expect_shape("scale", in[2].shape, {});
        expect_dtype("scale", in[2].dtype, DType::f32);
        return {in[0], {{}, DType::f32}};
    }
    std::vector<ValueId> gradient(Graph&, const Node& node, std::span<const ValueId>) const override {
        return {node.outputs[0], no_value, no_value};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim + 1 < in[0].shape.rank(); ++dim)
            rules.push_back({{Placement::shard(dim), Placement::shard(dim), Placement::replicate()},
                             {Placement::shard(dim), Placement::partial()}});
        return rules;
    }
    int in_place_input() const override { return 0; }
    std::int64_t workspace_bytes(const Stream&, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return in[1].shape.count() / classes_ * bytes_of(DType::f32);
    }
    void run(Stream& stream, const Operands& a) const override {
        const View losses(a.workspace.memory(), {a.inputs[1].shape.count() / classes_}, DType::f32);
        std::visit(
            [&](auto& s) {
                kernels::soft_cross_entropy_with_gradient(s, classes_, smoothing_, a.inputs[0], a.inputs[1],
                                                          a.inputs[2], losses, a.outputs[0]);
                kernels::sum(s, losses, a.outputs[1]);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        return {{{{4, 6, 19}, DType::f32}}, {{{4, 6, classes_}, DType::f32}, false}, {{{}, DType::f32}, false, 0, 0.5}};
    }

private:
    std::int64_t classes_;
    float smoothing_;
};

} // namespace

OpPointer make_soft_cross_entropy(std::int64_t classes, double smoothing) {
    return std::make_shared<SoftCrossEntropy>(classes, smoothing);
}

ValueId ops::soft_cross_entropy(Graph& graph, std::string name, ValueId logits, ValueId probabilities, ValueId scale,
                                std::int64_t classes, double smoothing) {
    return graph.apply(make_soft_cross_entropy(classes, smoothing), std::move(name), {logits, probabilities, scale})
        .back();
}

} // namespace tessera
