// SPDX-License-Identifier: Apache-2.0
// mean_squared_error: the mean over a sample's numbers, summed over the samples; the training form writes the gradient
// in the place of what is compared.
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/reduce.hpp"
#include "kernels/squared_error.hpp"

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

std::vector<ExampleInput> numbers_and_targets() {
    return {{{{4, 6, 5}, DType::f32}}, {{{4, 6, 5}, DType::f32}, false}};
}

class MeanSquaredErrorLoss final : public Op { // y, targets -> loss
public:
    std::string_view name() const override { return "mean_squared_error_loss"; }
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
                kernels::squared_error(s, numbers_of_sample(a), a.inputs[0], a.inputs[1], losses_view(a));
                kernels::sum(s, losses_view(a), a.outputs[0]);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        std::vector<ExampleInput> inputs = numbers_and_targets();
        inputs[0].differentiable = false;
        return inputs;
    }
};

class MeanSquaredError final : public Op { // y, targets, scale -> dy, loss
public:
    std::string_view name() const override { return "mean_squared_error"; }
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
                kernels::squared_error_with_gradient(s, numbers_of_sample(a), a.inputs[0], a.inputs[1], a.inputs[2],
                                                     losses_view(a), a.outputs[0]);
                kernels::sum(s, losses_view(a), a.outputs[1]);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        std::vector<ExampleInput> inputs = numbers_and_targets();
        inputs.push_back({{{}, DType::f32}, false, 0, 0.5});
        return inputs;
    }
};

} // namespace

OpPointer make_mean_squared_error() { return std::make_shared<MeanSquaredError>(); }
OpPointer make_mean_squared_error_loss() { return std::make_shared<MeanSquaredErrorLoss>(); }

ValueId ops::mean_squared_error(Graph& graph, std::string name, ValueId y, ValueId targets, ValueId scale) {
    return graph.apply(make_mean_squared_error(), std::move(name), {y, targets, scale})[1];
}

ValueId ops::mean_squared_error_loss(Graph& graph, std::string name, ValueId y, ValueId targets) {
    return graph.apply_one(make_mean_squared_error_loss(), std::move(name), {y, targets});
}

} // namespace tessera
