// SPDX-License-Identifier: Apache-2.0
// rms_norm: root-mean-square normalisation over the last dim, and its gradient.
#include "core/graph/attributes.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/norm.hpp"

namespace tessera {
namespace {

class RmsNormGradient final : public Op { // x, scale, rstd, dy -> dx, dscale
public:
    std::string_view name() const override { return "rms_norm_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        return {in[0], {in[1].shape, DType::f32}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim + 1 < in[0].shape.rank(); ++dim) {
            const Placement shard = Placement::shard(dim);
            rules.push_back({{shard, Placement::replicate(), shard, shard}, {shard, Placement::partial()}});
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
                kernels::rms_norm_gradient(s, a.inputs[0], a.inputs[1], a.inputs[2], a.inputs[3], a.outputs[0],
                                           a.outputs[1], a.workspace);
            },
            stream);
    }
};

class RmsNorm final : public Op { // x, scale -> y, rstd
public:
    explicit RmsNorm(double epsilon) : epsilon_(static_cast<float>(epsilon)) {}
    std::string_view name() const override { return "rms_norm"; }
    Attributes attributes() const override { return {{"epsilon", epsilon_}}; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("x", in[0].dtype);
        expect_dims("x", in[0], 1);
        expect_shape("scale", in[1].shape, {in[0].shape[-1]});
        expect_dtype("scale", in[1].dtype, DType::f32);
        return {in[0], {in[0].shape.slice(0, in[0].shape.rank() - 1), DType::f32}};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        return graph.apply(std::make_shared<RmsNormGradient>(), node.name + ".gradient",
                           {node.inputs[0], node.inputs[1], node.outputs[1], dy[0]});
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim + 1 < in[0].shape.rank(); ++dim)
            rules.push_back(
                {{Placement::shard(dim), Placement::replicate()}, {Placement::shard(dim), Placement::shard(dim)}});
        return rules;
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) { kernels::rms_norm(s, a.inputs[0], a.inputs[1], epsilon_, a.outputs[0], a.outputs[1]); },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        return {{{{4, 6, 24}, DType::f32}}, {{{24}, DType::f32}, true, 0, 1.0}};
    }

private:
    float epsilon_;
};

} // namespace

OpPointer make_rms_norm(double epsilon) { return std::make_shared<RmsNorm>(epsilon); }

ValueId ops::rms_norm(Graph& graph, std::string name, ValueId x, ValueId scale, double epsilon) {
    return graph.apply(make_rms_norm(epsilon), std::move(name), {x, scale})[0];
}

} // namespace tessera
