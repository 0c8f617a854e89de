// SPDX-License-Identifier: Apache-2.0
// The losses of numbers: the mean over a sample's numbers, summed over the samples; the training form writes the
// gradient in the place of what is compared.
#include "kernels/pointwise_loss.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/reduce.hpp"

namespace tessera {
namespace {

void expect_numbers_and_targets(std::span<const TensorType> in) {
    expect_floating("y", in[0].dtype);
    expect_dims("y", in[0], 2);
    expect_shape("targets", in[1].shape, in[0].shape);
    expect_dtype("targets", in[1].dtype, DType::f32);
}

// Of the whole sample: a part's loss is a part of its mean.
std::int64_t numbers_of_sample(const Operands& a) {
    const Shape& shape = a.locality == nullptr ? a.inputs[0].shape : a.locality->wholes[0];
    return shape.count(1, shape.rank());
}

std::int64_t losses_bytes(std::span<const TensorType> in) { return in[0].shape[0] * bytes_of(DType::f32); }

View losses_view(const Operands& a) { return {a.workspace.memory(), {a.inputs[0].shape[0]}, DType::f32}; }

// Far from each other where the slope is not smooth; then few, or the sum's rounding would hide their differences.
std::vector<ExampleInput> numbers_and_targets(kernels::PointwiseLoss::Kind kind) {
    using Kind = kernels::PointwiseLoss::Kind;
    const bool kinks = kind == Kind::absolute || kind == Kind::huber;
    const Shape shape = kinks ? Shape{4, 2, 2} : Shape{4, 6, 5};
    return {{{shape, DType::f32}}, {{shape, DType::f32}, false, 0, kinks ? 4.0 : 0.0}};
}

using kernels::PointwiseLoss;

std::string_view name_of_loss(PointwiseLoss::Kind kind, bool with_gradient) {
    switch (kind) {
    case PointwiseLoss::Kind::absolute:
        return with_gradient ? "mean_absolute_error" : "mean_absolute_error_loss";
    case PointwiseLoss::Kind::huber:
        return with_gradient ? "huber" : "huber_loss";
    case PointwiseLoss::Kind::binary:
        return with_gradient ? "binary_cross_entropy" : "binary_cross_entropy_loss";
    case PointwiseLoss::Kind::squared:
        break;
    }
    return with_gradient ? "mean_squared_error" : "mean_squared_error_loss";
}

class EvaluatedLoss final : public Op { // y, targets -> loss
public:
    explicit EvaluatedLoss(const PointwiseLoss& loss) : loss_(loss) {}
    std::string_view name() const override { return name_of_loss(loss_.kind, false); }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_numbers_and_targets(in);
        return {{{}, DType::f32}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim < in[0].shape.rank(); ++dim)
            rules.push_back({{Placement::shard(dim), Placement::shard(dim)}, {Placement::partial()}});
        return rules;
    }
    std::int64_t workspace_bytes(const Stream&, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return losses_bytes(in);
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::pointwise_loss(s, loss_, numbers_of_sample(a), a.inputs[0], a.inputs[1], losses_view(a));
                kernels::sum(s, losses_view(a), a.outputs[0]);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        std::vector<ExampleInput> inputs = numbers_and_targets(loss_.kind);
        inputs[0].differentiable = false;
        return inputs;
    }

private:
    PointwiseLoss loss_;
};

class TrainedLoss final : public Op { // y, targets, scale -> dy, loss
public:
    explicit TrainedLoss(const PointwiseLoss& loss) : loss_(loss) {}
    std::string_view name() const override { return name_of_loss(loss_.kind, true); }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_numbers_and_targets(in);
        expect_shape("scale", in[2].shape, {});
        expect_dtype("scale", in[2].dtype, DType::f32);
        return {in[0], {{}, DType::f32}};
    }
    std::vector<ValueId> gradient(Graph&, const Node& node, std::span<const ValueId>) const override {
        return {node.outputs[0], no_value, no_value};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim < in[0].shape.rank(); ++dim)
            rules.push_back({{Placement::shard(dim), Placement::shard(dim), Placement::replicate()},
                             {Placement::shard(dim), Placement::partial()}});
        return rules;
    }
    int in_place_input() const override { return 0; }
    std::int64_t workspace_bytes(const Stream&, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return losses_bytes(in);
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::pointwise_loss_with_gradient(s, loss_, numbers_of_sample(a), a.inputs[0], a.inputs[1],
                                                      a.inputs[2], losses_view(a), a.outputs[0]);
                kernels::sum(s, losses_view(a), a.outputs[1]);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        std::vector<ExampleInput> inputs = numbers_and_targets(loss_.kind);
        inputs.push_back({{{}, DType::f32}, false, 0, 0.5});
        return inputs;
    }

private:
    PointwiseLoss loss_;
};

} // namespace

OpPointer make_pointwise_loss(const PointwiseLoss& loss, bool with_gradient) {
    if (with_gradient) return std::make_shared<TrainedLoss>(loss);
    return std::make_shared<EvaluatedLoss>(loss);
}

ValueId ops::pointwise_loss(Graph& graph, std::string name, const PointwiseLoss& loss, ValueId y, ValueId targets,
                            ValueId scale) {
    if (scale == no_value) return graph.apply_one(make_pointwise_loss(loss, false), std::move(name), {y, targets});
    return graph.apply(make_pointwise_loss(loss, true), std::move(name), {y, targets, scale})[1];
}

} // namespace tessera
