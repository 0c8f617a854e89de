// SPDX-License-Identifier: Apache-2.0
// attention: softmax attention of packed queries, keys and values, fused (Dao et al. 2022), and its gradient.
#include "kernels/attention.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "core/ops/ring_attention.hpp"
#include "kernels/error.hpp"

#include <algorithm>
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

// Whether all are cut along their dims, and the sequence of so many tokens can be cut so.
bool on_a_ring(std::span<const Placement> inputs, std::initializer_list<int> dims, std::int64_t tokens, int ranks) {
    return tokens % (2 * ranks) == 0 &&
           std::ranges::equal(inputs, dims, [](Placement at, int dim) { return at == Placement::shard(dim); });
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
    std::optional<Substitute> around_ring(int axis, int ranks, std::span<const TensorType> in,
                                          std::span<const Placement> inputs) const override {
        if (!on_a_ring(inputs, {1, 1, 2, 1}, in[0].shape[1], ranks)) return std::nullopt;
        return Substitute{make_ring_attention_gradient(axis, ranks, causal_), {Placement::shard(1)}};
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
        return 4 *
               attention_product_flops(in[0].shape, causal_); // the fifth, recomputing the scores, is not the model's
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
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return attention_types(in[0]); }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        return graph.apply(std::make_shared<AttentionGradient>(causal_), node.name + ".gradient",
                           {node.inputs[0], node.outputs[0], node.outputs[1], dy[0]});
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        return {{{Placement::shard(3)}, {Placement::shard(2), Placement::shard(1)}},
                {{Placement::shard(0)}, {Placement::shard(0), Placement::shard(0)}}};
    }
    std::optional<Substitute> around_ring(int axis, int ranks, std::span<const TensorType> in,
                                          std::span<const Placement> inputs) const override {
        if (!on_a_ring(inputs, {1}, in[0].shape[1], ranks)) return std::nullopt;
        return Substitute{make_ring_attention(axis, ranks, causal_), {Placement::shard(1), Placement::shard(2)}};
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return std::visit(
            [&](auto& s) { return kernels::attention_workspace_bytes(s, shape_of(in[0].shape, causal_), in[0].dtype); },
            stream);
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType>) const override {
        return 2 * attention_product_flops(in[0].shape, causal_);
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

// Products counted: two in forward, five in backward; a causal mask halves them.
double attention_product_flops(const Shape& qkv, bool causal) {
    const double full = 2.0 * static_cast<double>(qkv[0] * qkv[3] * qkv[1] * qkv[1] * qkv[4]);
    return causal ? full / 2 : full;
}

std::vector<TensorType> attention_types(const TensorType& qkv) {
    const Shape& shape = qkv.shape;
    expect_floating("qkv", qkv.dtype);
    if (shape.rank() != 5 || shape[2] != 3)
        throw ConfigError(fmt::format("qkv is {}, expected (batch, time, 3, heads, head dim)", shape.text()));
    return {{{shape[0], shape[1], shape[3], shape[4]}, qkv.dtype}, {{shape[0], shape[3], shape[1]}, DType::f32}};
}

OpPointer make_attention(bool causal) { return std::make_shared<AttentionOp>(causal); }

ValueId ops::attention(Graph& graph, std::string name, ValueId qkv, bool causal) {
    return graph.apply(make_attention(causal), std::move(name), {qkv})[0];
}

} // namespace tessera
