// SPDX-License-Identifier: Apache-2.0
// cross_entropy: softmax and negative log likelihood in one; the training form writes the logits' gradient in their
// place.
#include "kernels/cross_entropy.hpp"
#include "core/ops/cross_entropy_shard.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/reduce.hpp"

namespace tessera {
namespace {

void expect_logits_and_targets(std::span<const TensorType> in, std::int64_t classes) {
    expect_floating("logits", in[0].dtype);
    expect_dims("logits", in[0], 1);
    if (in[0].shape[-1] < classes)
        throw ConfigError(fmt::format("logits is {}, expected at least {} columns", in[0].shape.text(), classes));
    expect_dtype("targets", in[1].dtype, DType::i32);
    expect_shape("targets", in[1].shape, in[0].shape.slice(0, in[0].shape.rank() - 1));
}

std::int64_t losses_bytes(std::span<const TensorType> in) { return in[1].shape.count() * bytes_of(DType::f32); }

View losses_view(const Operands& a) { return {a.workspace.memory(), a.inputs[1].shape, DType::f32}; }

std::vector<ExampleInput> logits_and_targets(std::int64_t classes) {
    return {{{{4, 6, 19}, DType::f32}}, {{{4, 6}, DType::i32}, false, static_cast<std::int32_t>(classes)}};
}

class CrossEntropyLoss final : public Op { // logits, targets -> loss
public:
    explicit CrossEntropyLoss(std::int64_t classes) : classes_(classes) {}
    std::string_view name() const override { return "cross_entropy_loss"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_logits_and_targets(in, classes_);
        return {{{}, DType::f32}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim + 1 < in[0].shape.rank(); ++dim)
            rules.push_back({{Placement::shard(dim), Placement::shard(dim)}, {Placement::partial()}});
        return rules;
    }
    std::optional<Halves> halves(std::span<const TensorType> in, std::span<const Placement> placements,
                                 int ranks) const override {
        if (!classes_are_cut(in[0].shape, placements)) return std::nullopt;
        return cross_entropy_halves(ranks, classes_, false);
    }
    std::int64_t workspace_bytes(const Stream&, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return losses_bytes(in);
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::cross_entropy(s, classes_, a.inputs[0], a.inputs[1], losses_view(a));
                kernels::sum(s, losses_view(a), a.outputs[0]);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        std::vector<ExampleInput> inputs = logits_and_targets(classes_);
        inputs[0].differentiable = false;
        return inputs;
    }

private:
    std::int64_t classes_;
};

class CrossEntropy final : public Op { // logits, targets, scale -> dlogits, loss
public:
    explicit CrossEntropy(std::int64_t classes) : classes_(classes) {}
    std::string_view name() const override { return "cross_entropy"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_logits_and_targets(in, classes_);
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
    std::optional<Halves> halves(std::span<const TensorType> in, std::span<const Placement> placements,
                                 int ranks) const override {
        if (!classes_are_cut(in[0].shape, placements)) return std::nullopt;
        return cross_entropy_halves(ranks, classes_, true);
    }
    int in_place_input() const override { return 0; }
    std::int64_t workspace_bytes(const Stream&, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return losses_bytes(in);
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::cross_entropy_with_gradient(s, classes_, a.inputs[0], a.inputs[1], a.inputs[2], losses_view(a),
                                                     a.outputs[0]);
                kernels::sum(s, losses_view(a), a.outputs[1]);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        std::vector<ExampleInput> inputs = logits_and_targets(classes_);
        inputs.push_back({{{}, DType::f32}, false, 0, 0.5});
        return inputs;
    }

private:
    std::int64_t classes_;
};

} // namespace

OpPointer make_cross_entropy(std::int64_t classes) { return std::make_shared<CrossEntropy>(classes); }
OpPointer make_cross_entropy_loss(std::int64_t classes) { return std::make_shared<CrossEntropyLoss>(classes); }

ValueId ops::cross_entropy(Graph& graph, std::string name, ValueId logits, ValueId targets, ValueId scale,
                           std::int64_t classes) {
    return graph.apply(make_cross_entropy(classes), std::move(name), {logits, targets, scale})[1];
}

ValueId ops::cross_entropy_loss(Graph& graph, std::string name, ValueId logits, ValueId targets, std::int64_t classes) {
    return graph.apply_one(make_cross_entropy_loss(classes), std::move(name), {logits, targets});
}

} // namespace tessera
