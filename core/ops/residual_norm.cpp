// SPDX-License-Identifier: Apache-2.0
// residual_norm: a residual connection and the norm of its sum in one pass over memory, and their gradient.
#include "core/graph/attributes.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/norm.hpp"

namespace tessera {
namespace {

// sum, scale, rstd[, mean], dy[, dsum] -> dx, dscale[, dbias]; dx is the gradient of both summands.
class ResidualNormGradient final : public Op {
public:
    ResidualNormGradient(Norm kind, bool bias, bool summed) : kind_(kind), bias_(bias), summed_(summed) {}
    std::string_view name() const override { return "residual_norm_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        std::vector<TensorType> outputs{in[0], {in[1].shape, DType::f32}};
        if (bias_) outputs.push_back({in[1].shape, DType::f32});
        return outputs;
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim + 1 < in[0].shape.rank(); ++dim) {
            PlacementRule rule{std::vector<Placement>(in.size(), Placement::shard(dim)),
                               {Placement::shard(dim), Placement::partial()}};
            rule.inputs[1] = Placement::replicate();
            if (bias_) rule.outputs.push_back(Placement::partial());
            rules.push_back(std::move(rule));
        }
        return rules;
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        const std::int64_t columns = in[1].shape.count(), rows = in[2].shape.count();
        return std::visit([&](auto& s) { return kernels::norm_gradient_workspace_bytes(s, rows, columns); }, stream);
    }
    int in_place_input() const override { return first_gradient() + (summed_ ? 1 : 0); }
    void run(Stream& stream, const Operands& a) const override {
        const auto dy = static_cast<std::size_t>(first_gradient());
        const View dbias = bias_ ? a.outputs[2] : View();
        const auto work = [&](auto& s) {
            if (kind_ == Norm::layer_norm && summed_)
                kernels::add_layer_norm_gradient(s, a.inputs[0], a.inputs[1], a.inputs[3], a.inputs[2], a.inputs[dy],
                                                 a.inputs[dy + 1], a.outputs[0], a.outputs[1], dbias, a.workspace);
            else if (kind_ == Norm::layer_norm)
                kernels::layer_norm_gradient(s, a.inputs[0], a.inputs[1], a.inputs[3], a.inputs[2], a.inputs[dy],
                                             a.outputs[0], a.outputs[1], dbias, a.workspace);
            else if (summed_)
                kernels::add_rms_norm_gradient(s, a.inputs[0], a.inputs[1], a.inputs[2], a.inputs[dy], a.inputs[dy + 1],
                                               a.outputs[0], a.outputs[1], a.workspace);
            else
                kernels::rms_norm_gradient(s, a.inputs[0], a.inputs[1], a.inputs[2], a.inputs[dy], a.outputs[0],
                                           a.outputs[1], a.workspace);
        };
        std::visit(work, stream);
    }

private:
    int first_gradient() const { return kind_ == Norm::layer_norm ? 4 : 3; }

    Norm kind_;
    bool bias_;
    bool summed_; // the sum is used beside the norm, so a gradient reaches it
};

class ResidualNorm final : public Op { // a, b, scale[, bias] -> sum, y, rstd[, mean]
public:
    ResidualNorm(Norm kind, double epsilon) : kind_(kind), epsilon_(static_cast<float>(epsilon)) {}
    std::string_view name() const override { return "residual_norm"; }
    Attributes attributes() const override { return {{"epsilon", epsilon_}, {"rms", kind_ == Norm::rms_norm}}; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("a", in[0].dtype);
        expect_dims("a", in[0], 1);
        expect_shape("b", in[1].shape, in[0].shape);
        expect_dtype("b", in[1].dtype, in[0].dtype);
        if (kind_ == Norm::rms_norm && in.size() > 3) throw ConfigError("rms_norm has no bias");
        for (std::size_t i = 2; i < in.size(); ++i) {
            expect_shape(i == 2 ? "scale" : "bias", in[i].shape, {in[0].shape[-1]});
            expect_dtype(i == 2 ? "scale" : "bias", in[i].dtype, DType::f32);
        }
        const TensorType statistic{in[0].shape.slice(0, in[0].shape.rank() - 1), DType::f32};
        std::vector<TensorType> outputs{in[0], in[0], statistic};
        if (kind_ == Norm::layer_norm) outputs.push_back(statistic);
        return outputs;
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        std::vector<ValueId> gradients(node.inputs.size(), no_value);
        gradients[0] = gradients[1] = dy[0];
        if (dy[1] == no_value) return gradients; // the norm is not used
        const bool summed = dy[0] != no_value, bias = node.inputs.size() == 4;
        std::vector<ValueId> inputs{node.outputs[0], node.inputs[2], node.outputs[2]};
        if (kind_ == Norm::layer_norm) inputs.push_back(node.outputs[3]);
        inputs.push_back(dy[1]);
        if (summed) inputs.push_back(dy[0]);
        const std::vector<ValueId> outputs = graph.apply(std::make_shared<ResidualNormGradient>(kind_, bias, summed),
                                                         node.name + ".gradient", std::move(inputs));
        gradients[0] = gradients[1] = outputs[0];
        for (std::size_t i = 1; i < outputs.size(); ++i)
            gradients[i + 1] = outputs[i];
        return gradients;
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim + 1 < in[0].shape.rank(); ++dim) {
            PlacementRule rule{std::vector<Placement>(in.size(), Placement::replicate()),
                               std::vector<Placement>(kind_ == Norm::layer_norm ? 4 : 3, Placement::shard(dim))};
            rule.inputs[0] = rule.inputs[1] = Placement::shard(dim);
            rules.push_back(std::move(rule));
        }
        return rules;
    }
    int in_place_input() const override { return 1; } // the branch: what came before it is often needed again
    void run(Stream& stream, const Operands& a) const override {
        const ConstView bias = a.inputs.size() == 4 ? ConstView(a.inputs[3]) : ConstView();
        const auto work = [&](auto& s) {
            if (kind_ == Norm::layer_norm)
                kernels::add_layer_norm(s, a.inputs[0], a.inputs[1], a.inputs[2], bias, epsilon_, a.outputs[0],
                                        a.outputs[1], a.outputs[3], a.outputs[2]);
            else
                kernels::add_rms_norm(s, a.inputs[0], a.inputs[1], a.inputs[2], epsilon_, a.outputs[0], a.outputs[1],
                                      a.outputs[2]);
        };
        std::visit(work, stream);
    }
    std::vector<ExampleInput> example() const override {
        std::vector<ExampleInput> inputs{
            {{{4, 6, 24}, DType::f32}}, {{{4, 6, 24}, DType::f32}}, {{{24}, DType::f32}, true, 0, 1.0}};
        if (kind_ == Norm::layer_norm) inputs.push_back({{{24}, DType::f32}});
        return inputs;
    }

private:
    Norm kind_;
    float epsilon_;
};

} // namespace

OpPointer make_residual_norm(Norm kind, double epsilon) { return std::make_shared<ResidualNorm>(kind, epsilon); }

ops::ResidualNorm ops::residual_norm(Graph& graph, std::string name, Norm kind, ValueId a, ValueId b, ValueId scale,
                                     ValueId bias, double epsilon) {
    std::vector<ValueId> inputs{a, b, scale};
    if (bias != no_value) inputs.push_back(bias);
    const std::vector<ValueId> outputs =
        graph.apply(make_residual_norm(kind, epsilon), std::move(name), std::move(inputs));
    return {outputs[0], outputs[1]};
}

} // namespace tessera
