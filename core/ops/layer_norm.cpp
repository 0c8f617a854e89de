// SPDX-License-Identifier: Apache-2.0
// layer_norm: normalisation over the last dim, and its gradient.
#include "core/graph/attributes.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/norm.hpp"

namespace tessera {
namespace {

class LayerNormGradient final : public Op { // x, scale, mean, rstd, dy -> dx, dscale[, dbias]
public:
    explicit LayerNormGradient(bool bias) : bias_(bias) {}
    std::string_view name() const override { return "layer_norm_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        std::vector<TensorType> outputs{in[0], {in[1].shape, DType::f32}};
        if (bias_) outputs.push_back({in[1].shape, DType::f32});
        return outputs;
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim + 1 < in[0].shape.rank(); ++dim) {
            const Placement shard = Placement::shard(dim);
            PlacementRule rule{{shard, Placement::replicate(), shard, shard, shard}, {shard, Placement::partial()}};
            if (bias_) rule.outputs.push_back(Placement::partial());
            rules.push_back(std::move(rule));
        }
        return rules;
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        const std::int64_t columns = in[1].shape.count();
        const std::int64_t rows = in[2].shape.count();
        return std::visit([&](auto& s) { return kernels::norm_gradient_workspace_bytes(s, rows, columns); }, stream);
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::layer_norm_gradient(s, a.inputs[0], a.inputs[1], a.inputs[2], a.inputs[3], a.inputs[4],
                                             a.outputs[0], a.outputs[1], bias_ ? a.outputs[2] : View(), a.workspace);
            },
            stream);
    }

private:
    bool bias_;
};

class LayerNorm final : public Op { // x, scale[, bias] -> y, mean, rstd
public:
    explicit LayerNorm(double epsilon) : epsilon_(static_cast<float>(epsilon)) {}
    std::string_view name() const override { return "layer_norm"; }
    Attributes attributes() const override { return {{"epsilon", epsilon_}}; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("x", in[0].dtype);
        expect_dims("x", in[0], 1);
        const Shape rows = in[0].shape.slice(0, in[0].shape.rank() - 1);
        for (std::size_t i = 1; i < in.size(); ++i) {
            expect_shape(i == 1 ? "scale" : "bias", in[i].shape, {in[0].shape[-1]});
            expect_dtype(i == 1 ? "scale" : "bias", in[i].dtype, DType::f32);
        }
        return {in[0], {rows, DType::f32}, {rows, DType::f32}};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        return graph.apply(std::make_shared<LayerNormGradient>(node.inputs.size() == 3), node.name + ".gradient",
                           {node.inputs[0], node.inputs[1], node.outputs[1], node.outputs[2], dy[0]});
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim + 1 < in[0].shape.rank(); ++dim) {
            PlacementRule rule{std::vector<Placement>(in.size(), Placement::replicate()),
                               std::vector<Placement>(3, Placement::shard(dim))};
            rule.inputs[0] = Placement::shard(dim);
            rules.push_back(std::move(rule));
        }
        return rules;
    }
    void run(Stream& stream, const Operands& a) const override {
        const ConstView bias = a.inputs.size() == 3 ? ConstView(a.inputs[2]) : ConstView();
        std::visit(
            [&](auto& s) {
                kernels::layer_norm(s, a.inputs[0], a.inputs[1], bias, epsilon_, a.outputs[0], a.outputs[1],
                                    a.outputs[2]);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        return {{{{4, 6, 24}, DType::f32}}, {{{24}, DType::f32}, true, 0, 1.0}, {{{24}, DType::f32}}};
    }

private:
    float epsilon_;
};

} // namespace

OpPointer make_layer_norm(double epsilon) { return std::make_shared<LayerNorm>(epsilon); }

ValueId ops::layer_norm(Graph& graph, std::string name, ValueId x, ValueId scale, ValueId bias, double epsilon) {
    std::vector<ValueId> inputs{x, scale};
    if (bias != no_value) inputs.push_back(bias);
    return graph.apply(make_layer_norm(epsilon), std::move(name), std::move(inputs))[0];
}

} // namespace tessera
