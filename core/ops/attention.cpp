// SPDX-License-Identifier: Apache-2.0
// attention: softmax attention of packed queries, keys and values, fused (Dao et al. 2022), and its gradient.
#include "kernels/attention.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"

#include <cmath>

namespace tessera {
namespace {

// qkv: (B, T, 3, H, D)
kernels::AttentionShape shape_of(const Shape& qkv, bool causal) {
    return {.batch = qkv[0],
            .tokens = qkv[1],
            .heads = qkv[3],
            .kv_heads = qkv[3],
            .head_dim = qkv[4],
            .scale = 1.0f / std::sqrt(static_cast<float>(qkv[4])),
            .causal = causal};
}

// Products counted: two in forward, five in backward; a causal mask halves them.
double product_flops(const Shape& qkv, bool causal) {
    const double full = 2.0 * static_cast<double>(qkv[0] * qkv[3] * qkv[1] * qkv[1] * qkv[4]);
    return causal ? full / 2 : full;
}

class AttentionGradient final : public Op { // qkv, y, log_sum_exp, dy -> dqkv
public:
    explicit AttentionGradient(bool causal) : causal_(causal) {}
    std::string_view name() const override { return "attention_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[0]}; }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        const auto at = [](int dim) { return Placement::shard(dim); };
        return {{{at(3), at(2), at(1), at(2)}, {at(3)}}, {{at(0), at(0), at(0), at(0)}, {at(0)}}};
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return std::visit(
            [&](auto& s) {
                return kernels::attention_gradient_workspace_bytes(s, shape_of(in[0].shape, causal_), in[0].dtype);
            },
            stream);
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType>) const override {
        return 4 * product_flops(in[0].shape, causal_); // the fifth, recomputing the scores, is not the model's
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::attention_gradient(s, shape_of(a.inputs[0].shape, causal_), a.inputs[0], a.inputs[1],
                                            a.inputs[3], a.inputs[2], a.outputs[0], a.workspace);
            },
            stream);
    }

private:
    bool causal_;
};

class AttentionOp final : public Op { // qkv -> y, log_sum_exp
public:
    explicit AttentionOp(bool causal) : causal_(causal) {}
    std::string_view name() const override { return "attention"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        const Shape& qkv = in[0].shape;
        expect_floating("qkv", in[0].dtype);
        if (qkv.rank() != 5 || qkv[2] != 3)
            throw ConfigError(fmt::format("qkv is {}, expected (batch, time, 3, heads, head dim)", qkv.text()));
        return {{{qkv[0], qkv[1], qkv[3], qkv[4]}, in[0].dtype}, {{qkv[0], qkv[3], qkv[1]}, DType::f32}};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        return graph.apply(std::make_shared<AttentionGradient>(causal_), node.name + ".gradient",
                           {node.inputs[0], node.outputs[0], node.outputs[1], dy[0]});
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        return {{{Placement::shard(3)}, {Placement::shard(2), Placement::shard(1)}},
                {{Placement::shard(0)}, {Placement::shard(0), Placement::shard(0)}}};
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return std::visit(
            [&](auto& s) { return kernels::attention_workspace_bytes(s, shape_of(in[0].shape, causal_), in[0].dtype); },
            stream);
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType>) const override {
        return 2 * product_flops(in[0].shape, causal_);
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::attention(s, shape_of(a.inputs[0].shape, causal_), a.inputs[0], a.outputs[0], a.outputs[1],
                                   a.workspace);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override { return {{{{2, 9, 3, 4, 8}, DType::f32}}}; }

private:
    bool causal_;
};

} // namespace

OpPointer make_attention(bool causal) { return std::make_shared<AttentionOp>(causal); }

ValueId ops::attention(Graph& graph, std::string name, ValueId qkv, bool causal) {
    return graph.apply(make_attention(causal), std::move(name), {qkv})[0];
}

} // namespace tessera
