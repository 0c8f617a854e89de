// SPDX-License-Identifier: Apache-2.0
// attention: softmax attention of packed queries, keys and values, fused (Dao et al. 2022), and its gradient.
#include "kernels/attention.hpp"
#include "core/graph/attributes.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "core/ops/ring_attention.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <cmath>

namespace tessera {
namespace {

// Whether all are cut along their dims, and the sequence of so many tokens can be cut so.
bool on_a_ring(std::span<const Placement> inputs, std::initializer_list<int> dims, std::int64_t tokens, int ranks) {
    return tokens % (2 * ranks) == 0 &&
           std::ranges::equal(inputs, dims, [](Placement at, int dim) { return at == Placement::shard(dim); });
}

class AttentionGradient final : public Op { // qkv, y, log_sum_exp, dy -> dqkv
public:
    AttentionGradient(bool causal, bool by_group) : causal_(causal), by_group_(by_group) {}
    std::string_view name() const override { return "attention_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[0]}; }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        const auto at = [](int dim) { return Placement::shard(dim); };
        const Placement heads = at(head_dim_of(by_group_));
        return {{{heads, at(2), at(1), at(2)}, {heads}}, {{at(0), at(0), at(0), at(0)}, {at(0)}}};
    }
    std::optional<Substitute> around_ring(int axis, int ranks, std::span<const TensorType> in,
                                          std::span<const Placement> inputs) const override {
        if (!on_a_ring(inputs, {1, 1, score_time_dim(by_group_), 1}, in[0].shape[1], ranks)) return std::nullopt;
        return Substitute{make_ring_attention_gradient(axis, ranks, causal_, by_group_), {Placement::shard(1)}};
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return std::visit(
            [&](auto& s) {
                return kernels::attention_gradient_workspace_bytes(s, attention_shape(in[0].shape, causal_, by_group_),
                                                                   in[0].dtype);
            },
            stream);
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType>) const override {
        // The fifth, recomputing the scores, is not the model's.
        return 4 * attention_product_flops(attention_shape(in[0].shape, causal_, by_group_));
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::attention_gradient(s, attention_shape(a.inputs[0].shape, causal_, by_group_), a.inputs[0],
                                            a.inputs[1], a.inputs[3], a.inputs[2], a.outputs[0], a.workspace);
            },
            stream);
    }

private:
    bool causal_, by_group_;
};

class AttentionOp final : public Op { // qkv -> y, log_sum_exp
public:
    AttentionOp(bool causal, bool by_group) : causal_(causal), by_group_(by_group) {}
    std::string_view name() const override { return "attention"; }
    Attributes attributes() const override { return {{"causal", causal_}, {"by_group", by_group_}}; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        return attention_types(in[0], by_group_);
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        return graph.apply(std::make_shared<AttentionGradient>(causal_, by_group_), node.name + ".gradient",
                           {node.inputs[0], node.outputs[0], node.outputs[1], dy[0]});
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        return {{{Placement::shard(head_dim_of(by_group_))}, {Placement::shard(2), Placement::shard(1)}},
                {{Placement::shard(0)}, {Placement::shard(0), Placement::shard(0)}}};
    }
    std::optional<Substitute> around_ring(int axis, int ranks, std::span<const TensorType> in,
                                          std::span<const Placement> inputs) const override {
        if (!on_a_ring(inputs, {1}, in[0].shape[1], ranks)) return std::nullopt;
        return Substitute{make_ring_attention(axis, ranks, causal_, by_group_),
                          {Placement::shard(1), Placement::shard(score_time_dim(by_group_))}};
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return std::visit(
            [&](auto& s) {
                return kernels::attention_workspace_bytes(s, attention_shape(in[0].shape, causal_, by_group_),
                                                          in[0].dtype);
            },
            stream);
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType>) const override {
        return 2 * attention_product_flops(attention_shape(in[0].shape, causal_, by_group_));
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::attention(s, attention_shape(a.inputs[0].shape, causal_, by_group_), a.inputs[0], a.outputs[0],
                                   a.outputs[1], a.workspace);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        return {{{{2, 9, 3, 4, 8}, DType::f32}}}; // by group: 3 of two heads
    }

private:
    bool causal_, by_group_;
};

} // namespace

kernels::AttentionShape attention_shape(const Shape& qkv, bool causal, bool by_group) {
    const std::int64_t kv_heads = by_group ? qkv[2] : qkv[3];
    return {.batch = qkv[0],
            .tokens = qkv[1],
            .heads = by_group ? kv_heads * (qkv[3] - 2) : kv_heads,
            .kv_heads = kv_heads,
            .head_dim = qkv[4],
            .scale = 1.0f / std::sqrt(static_cast<float>(qkv[4])),
            .causal = causal,
            .by_group = by_group};
}

// Products counted: two in forward, five in backward; a causal mask halves them.
double attention_product_flops(const kernels::AttentionShape& shape) {
    const double full =
        2.0 * static_cast<double>(shape.batch * shape.heads * shape.tokens * shape.tokens * shape.head_dim);
    return shape.causal ? full / 2 : full;
}

std::vector<TensorType> attention_types(const TensorType& qkv, bool by_group) {
    const Shape& shape = qkv.shape;
    expect_floating("qkv", qkv.dtype);
    if (shape.rank() != 5 || (by_group ? shape[3] < 3 : shape[2] != 3))
        throw ConfigError(fmt::format("qkv is {}, expected (batch, time, {}, head dim)", shape.text(),
                                      by_group ? "groups, heads of a group and 2" : "3, heads"));
    if (!by_group)
        return {{{shape[0], shape[1], shape[3], shape[4]}, qkv.dtype}, {{shape[0], shape[3], shape[1]}, DType::f32}};
    return {{{shape[0], shape[1], shape[2], shape[3] - 2, shape[4]}, qkv.dtype},
            {{shape[0], shape[2], shape[3] - 2, shape[1]}, DType::f32}};
}

OpPointer make_attention(bool causal, bool by_group) { return std::make_shared<AttentionOp>(causal, by_group); }

ValueId ops::attention(Graph& graph, std::string name, ValueId qkv, bool causal, bool by_group) {
    return graph.apply(make_attention(causal, by_group), std::move(name), {qkv})[0];
}

} // namespace tessera
