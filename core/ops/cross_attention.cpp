// SPDX-License-Identifier: Apache-2.0
// cross_attention: attention beyond the plain one, with keys of another sequence, segments and a bias by distance
// (kernels/cross_attention.hpp), and its gradient.
#include "kernels/cross_attention.hpp"
#include "core/graph/attributes.hpp"
#include "core/ops/encoder_ops.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ring_attention.hpp"

#include <cmath>

namespace tessera {
namespace {

enum class AttentionCut { heads, samples, queries }; // the ways to share it out

// Which inputs there are, in their order: q[, kv][, segments[, key_segments]][, bias].
class Inputs {
public:
    explicit Inputs(const CrossAttentionForm& form) : form_(form) {}
    bool packed() const { return !form_.cross; }
    std::size_t count() const { return bias_at() + (form_.bias ? 1 : 0); }
    std::size_t segments_at() const { return form_.cross ? 2 : 1; }
    std::size_t key_segments_at() const { return segments_at() + (form_.cross ? 1 : 0); }
    std::size_t bias_at() const { return form_.segments ? key_segments_at() + 1 : segments_at(); }

    kernels::CrossAttentionShape shape(const Shape& q, const Shape& keys) const {
        const kernels::AttentionShape heads = attention_shape(q, form_.causal, form_.by_group);
        return {.batch = q[0],
                .queries = q[1],
                .keys = keys[1],
                .heads = heads.heads,
                .kv_heads = heads.kv_heads,
                .head_dim = q[4],
                .scale = form_.scale > 0 ? static_cast<float>(form_.scale) : heads.scale,
                .causal = form_.causal,
                .packed = packed(),
                .segments = form_.segments,
                .bias = form_.bias,
                .by_group = form_.by_group};
    }
    kernels::CrossAttentionShape shape(std::span<const TensorType> in) const {
        return shape(in[0].shape, in[form_.cross ? 1 : 0].shape);
    }
    kernels::CrossAttentionShape shape(std::span<const View> in) const {
        return shape(in[0].shape, in[form_.cross ? 1 : 0].shape);
    }
    kernels::CrossAttentionInputs views(std::span<const View> in) const {
        kernels::CrossAttentionInputs views{in[0]};
        if (form_.cross) views.kv = in[1];
        if (form_.segments) {
            views.segments = in[segments_at()];
            views.key_segments = in[key_segments_at()];
        }
        if (form_.bias) views.bias = in[bias_at()];
        return views;
    }
    // Sharing out the queries wants neither places nor keys in the same tensor.
    std::vector<AttentionCut> cuts() const {
        std::vector<AttentionCut> cuts{AttentionCut::heads, AttentionCut::samples};
        if (form_.cross && !form_.causal && !form_.bias) cuts.push_back(AttentionCut::queries);
        return cuts;
    }
    std::vector<Placement> placed(AttentionCut cut) const {
        const Placement replicate = Placement::replicate();
        const auto by = [&](Placement heads, Placement samples, Placement queries) {
            return cut == AttentionCut::heads ? heads : cut == AttentionCut::samples ? samples : queries;
        };
        const auto at = [](int dim) { return Placement::shard(dim); };
        std::vector<Placement> inputs{by(at(head_dim_of(form_.by_group)), at(0), at(1))};
        if (form_.cross) inputs.push_back(by(at(3), at(0), replicate));
        if (form_.segments) inputs.push_back(by(replicate, at(0), at(1)));
        if (form_.segments && form_.cross) inputs.push_back(by(replicate, at(0), replicate));
        if (form_.bias) inputs.push_back(by(at(1), replicate, replicate));
        return inputs;
    }

private:
    CrossAttentionForm form_;
};

Placement of_y(AttentionCut cut) {
    return Placement::shard(cut == AttentionCut::heads ? 2 : cut == AttentionCut::samples ? 0 : 1);
}
Placement of_log_sum_exp(AttentionCut cut) {
    return Placement::shard(cut == AttentionCut::heads ? 1 : cut == AttentionCut::samples ? 0 : 2);
}

double product_flops(const kernels::CrossAttentionShape& shape) {
    const double full = 2.0 * static_cast<double>(shape.row_count() * shape.keys * shape.head_dim);
    return shape.causal ? full / 2 : full;
}

class CrossAttentionGradient final : public Op { // the inputs, y, log_sum_exp, dy -> dq[, dkv][, dbias]
public:
    explicit CrossAttentionGradient(const CrossAttentionForm& form) : form_(form), inputs_(form) {}
    std::string_view name() const override { return "cross_attention_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        std::vector<TensorType> outputs{in[0]};
        if (form_.cross) outputs.push_back(in[1]);
        if (form_.bias) outputs.push_back(in[inputs_.bias_at()]);
        return outputs;
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        std::vector<PlacementRule> rules;
        for (const AttentionCut cut : inputs_.cuts()) {
            PlacementRule rule{inputs_.placed(cut), {}};
            rule.outputs.push_back(rule.inputs[0]);
            if (form_.cross)
                rule.outputs.push_back(cut == AttentionCut::queries ? Placement::partial() : rule.inputs[1]);
            if (form_.bias)
                rule.outputs.push_back(cut == AttentionCut::heads ? rule.inputs.back() : Placement::partial());
            rule.inputs.insert(rule.inputs.end(), {of_y(cut), of_log_sum_exp(cut), of_y(cut)});
            rules.push_back(std::move(rule));
        }
        return rules;
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return std::visit(
            [&](auto& s) {
                return kernels::cross_attention_gradient_workspace_bytes(s, inputs_.shape(in), in[0].dtype);
            },
            stream);
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType>) const override {
        return 4 * product_flops(inputs_.shape(in)); // as attention's
    }
    void run(Stream& stream, const Operands& a) const override {
        const std::size_t y = inputs_.count();
        kernels::CrossAttentionGradients out{a.outputs[0]};
        if (form_.cross) out.kv = a.outputs[1];
        if (form_.bias) out.bias = a.outputs.back();
        std::visit(
            [&](auto& s) {
                kernels::cross_attention_gradient(s, inputs_.shape(a.inputs), inputs_.views(a.inputs), a.inputs[y],
                                                  a.inputs[y + 2], a.inputs[y + 1], out, a.workspace);
            },
            stream);
    }

private:
    CrossAttentionForm form_;
    Inputs inputs_;
};

class CrossAttentionOp final : public Op { // q[, kv][, segments[, key_segments]][, bias] -> y, log_sum_exp
public:
    explicit CrossAttentionOp(const CrossAttentionForm& form) : form_(form), inputs_(form) {}
    std::string_view name() const override { return "cross_attention"; }
    Attributes attributes() const override {
        return {{"cross", form_.cross},   {"segments", form_.segments}, {"bias", form_.bias},
                {"causal", form_.causal}, {"scale", form_.scale},       {"by_group", form_.by_group}};
    }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        const Shape& q = in[0].shape;
        const auto expect_heads = [](std::string_view what, const TensorType& type, std::int64_t parts) {
            expect_floating(what, type.dtype);
            if (type.shape.rank() != 5 || type.shape[2] != parts)
                throw ConfigError(fmt::format("{} is {}, expected (batch, time, {}, heads, head dim)", what,
                                              type.shape.text(), parts));
        };
        if (form_.by_group && (form_.cross || form_.bias))
            throw ConfigError("heads share keys of their own sequence, and without a bias, alone");
        std::vector<TensorType> outputs;
        if (form_.cross) {
            expect_heads("q", in[0], 1);
            expect_heads("kv", in[1], 2);
            expect_shape("kv", in[1].shape, {q[0], in[1].shape[1], 2, q[3], q[4]});
            expect_dtype("kv", in[1].dtype, in[0].dtype);
            outputs = {{{q[0], q[1], q[3], q[4]}, in[0].dtype}, {{q[0], q[3], q[1]}, DType::f32}};
        } else {
            outputs = attention_types(in[0], form_.by_group);
        }
        const kernels::CrossAttentionShape shape = inputs_.shape(in);
        const auto expect_segments = [&](std::size_t at, std::int64_t times) {
            expect_dtype("segments", in[at].dtype, DType::i32);
            expect_shape("segments", in[at].shape, {q[0], times});
        };
        if (form_.segments) {
            expect_segments(inputs_.segments_at(), shape.queries);
            expect_segments(inputs_.key_segments_at(), shape.keys);
        }
        if (form_.bias) {
            expect_dtype("bias", in[inputs_.bias_at()].dtype, DType::f32);
            expect_shape("bias", in[inputs_.bias_at()].shape, {shape.distances(), q[3]});
        }
        return outputs;
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        std::vector<ValueId> inputs = node.inputs;
        inputs.insert(inputs.end(), {node.outputs[0], node.outputs[1], dy[0]});
        const std::vector<ValueId> found =
            graph.apply(std::make_shared<CrossAttentionGradient>(form_), node.name + ".gradient", std::move(inputs));
        std::vector<ValueId> gradients(node.inputs.size(), no_value);
        gradients[0] = found[0];
        if (form_.cross) gradients[1] = found[1];
        if (form_.bias) gradients[inputs_.bias_at()] = found.back();
        return gradients;
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        std::vector<PlacementRule> rules;
        for (const AttentionCut cut : inputs_.cuts())
            rules.push_back({inputs_.placed(cut), {of_y(cut), of_log_sum_exp(cut)}});
        return rules;
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return std::visit(
            [&](auto& s) { return kernels::cross_attention_workspace_bytes(s, inputs_.shape(in), in[0].dtype); },
            stream);
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType>) const override {
        return 2 * product_flops(inputs_.shape(in));
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::cross_attention(s, inputs_.shape(a.inputs), inputs_.views(a.inputs), a.outputs[0],
                                         a.outputs[1], a.workspace);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        std::vector<ExampleInput> inputs{{{{2, 8, form_.cross ? 1 : 3, 4, 8}, DType::f32}}};
        if (form_.cross) inputs.push_back({{{2, 6, 2, 4, 8}, DType::f32}});
        if (form_.segments) inputs.push_back({{{2, 8}, DType::i32}, false, 2});
        if (form_.segments && form_.cross) inputs.push_back({{{2, 6}, DType::i32}, false, 2});
        if (form_.bias) inputs.push_back({{{form_.cross ? 13 : 15, 4}, DType::f32}});
        return inputs;
    }

private:
    CrossAttentionForm form_;
    Inputs inputs_;
};

} // namespace

OpPointer make_cross_attention(const CrossAttentionForm& form) { return std::make_shared<CrossAttentionOp>(form); }

ValueId ops::cross_attention(Graph& graph, std::string name, const CrossAttentionInputs& in, bool causal, double scale,
                             bool by_group) {
    const bool cross = in.kv != no_value, segments = in.segments != no_value;
    std::vector<ValueId> inputs{in.q};
    if (cross) inputs.push_back(in.kv);
    if (segments) inputs.push_back(in.segments);
    if (segments && cross) inputs.push_back(in.key_segments);
    if (in.bias != no_value) inputs.push_back(in.bias);
    const CrossAttentionForm form{cross, segments, in.bias != no_value, causal, scale, by_group};
    return graph.apply(make_cross_attention(form), std::move(name), std::move(inputs))[0];
}

} // namespace tessera
