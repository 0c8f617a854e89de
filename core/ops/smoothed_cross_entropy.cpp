// SPDX-License-Identifier: Apache-2.0
// smoothed_cross_entropy: with weights of classes and smoothed labels; the training form writes the logits' gradient in
// their place. Logits whose classes are cut are gathered: the plan leads them to where all classes are.
#include "kernels/smoothed_cross_entropy.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/reduce.hpp"

namespace tessera {
namespace {

class SmoothedCrossEntropy final : public Op { // logits, targets [, scale] [, class weights] -> [dlogits,] loss
public:
    SmoothedCrossEntropy(std::int64_t classes, double smoothing, bool weighted, bool with_gradient)
        : classes_(classes), smoothing_(static_cast<float>(smoothing)), weighted_(weighted),
          with_gradient_(with_gradient) {}
    std::string_view name() const override {
        return with_gradient_ ? "smoothed_cross_entropy" : "smoothed_cross_entropy_loss";
    }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("logits", in[0].dtype);
        expect_dims("logits", in[0], 1);
        if (in[0].shape[-1] < classes_)
            throw ConfigError(fmt::format("logits is {}, expected at least {} columns", in[0].shape.text(), classes_));
        expect_dtype("targets", in[1].dtype, DType::i32);
        expect_shape("targets", in[1].shape, in[0].shape.slice(0, in[0].shape.rank() - 1));
        if (with_gradient_) {
            expect_shape("scale", in[2].shape, {});
            expect_dtype("scale", in[2].dtype, DType::f32);
        }
        if (weighted_) {
            expect_shape("class weights", in.back().shape, {classes_});
            expect_dtype("class weights", in.back().dtype, DType::f32);
        }
        const TensorType loss{{}, DType::f32};
        return with_gradient_ ? std::vector<TensorType>{in[0], loss} : std::vector<TensorType>{loss};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        if (!with_gradient_) return Op::gradient(graph, node, dy);
        std::vector<ValueId> gradients(node.inputs.size(), no_value);
        gradients[0] = node.outputs[0];
        return gradients;
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim + 1 < in[0].shape.rank(); ++dim) {
            PlacementRule rule{std::vector<Placement>(in.size(), Placement::replicate()), {}};
            rule.inputs[0] = rule.inputs[1] = Placement::shard(dim);
            if (with_gradient_) rule.outputs.push_back(Placement::shard(dim));
            rule.outputs.push_back(Placement::partial());
            rules.push_back(std::move(rule));
        }
        return rules;
    }
    int in_place_input() const override { return with_gradient_ ? 0 : -1; }
    std::int64_t workspace_bytes(const Stream&, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return in[1].shape.count() * bytes_of(DType::f32);
    }
    void run(Stream& stream, const Operands& a) const override {
        const View losses(a.workspace.memory(), a.inputs[1].shape, DType::f32);
        const ConstView weights = weighted_ ? ConstView(a.inputs.back()) : ConstView();
        std::visit(
            [&](auto& s) {
                if (with_gradient_)
                    kernels::smoothed_cross_entropy_with_gradient(s, classes_, smoothing_, a.inputs[0], a.inputs[1],
                                                                  weights, a.inputs[2], losses, a.outputs[0]);
                else
                    kernels::smoothed_cross_entropy(s, classes_, smoothing_, a.inputs[0], a.inputs[1], weights, losses);
                kernels::sum(s, losses, a.outputs.back());
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        std::vector<ExampleInput> inputs{{{{4, 6, 19}, DType::f32}, with_gradient_},
                                         {{{4, 6}, DType::i32}, false, static_cast<std::int32_t>(classes_)}};
        if (with_gradient_) inputs.push_back({{{}, DType::f32}, false, 0, 0.5});
        if (weighted_) inputs.push_back({{{classes_}, DType::f32}, false, 0, 3});
        return inputs;
    }

private:
    std::int64_t classes_;
    float smoothing_;
    bool weighted_, with_gradient_;
};

} // namespace

OpPointer make_smoothed_cross_entropy(std::int64_t classes, double smoothing, bool weighted, bool with_gradient) {
    return std::make_shared<SmoothedCrossEntropy>(classes, smoothing, weighted, with_gradient);
}

ValueId ops::smoothed_cross_entropy(Graph& graph, std::string name, ValueId logits, ValueId targets, ValueId scale,
                                    std::int64_t classes, double smoothing, ValueId class_weights) {
    const bool weighted = class_weights != no_value, with_gradient = scale != no_value;
    std::vector<ValueId> inputs{logits, targets};
    if (with_gradient) inputs.push_back(scale);
    if (weighted) inputs.push_back(class_weights);
    return graph
        .apply(make_smoothed_cross_entropy(classes, smoothing, weighted, with_gradient), std::move(name),
               std::move(inputs))
        .back();
}

} // namespace tessera
