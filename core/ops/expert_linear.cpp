// SPDX-License-Identifier: Apache-2.0
// expert_linear: y[e] = x[e] w[e]^T + bias[e], a product for each expert, and its gradients.
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "core/ops/product.hpp"
#include "kernels/reduce.hpp"

namespace tessera {
namespace {

// x: (E, R..., C), w: (E, H, C), y: (E, R..., H); a Matmul is of one expert.
template <class Tensor> std::int64_t rows_of(const Tensor& x) { return x.shape.count(1, x.shape.rank() - 1); }

template <class Tensor> View of_expert(const Tensor& all, std::int64_t expert) {
    const Shape shape = all.shape.slice(1, all.shape.rank());
    return {static_cast<std::byte*>(all.memory()) + expert * shape.count() * bytes_of(all.dtype), shape, all.dtype};
}

void multiply_experts(Stream& stream, const Matmul& product, const View& a, const View& b, const View& bias,
                      const Operands& o) {
    for (std::int64_t e = 0; e < a.shape[0]; ++e) {
        const ConstView bias_of_expert = product.bias ? ConstView(of_expert(bias, e)) : ConstView();
        std::visit(
            [&](auto& s) {
                kernels::matmul(s, product, of_expert(a, e), of_expert(b, e), bias_of_expert,
                                of_expert(o.outputs[0], e), o.workspace);
            },
            stream);
    }
}

class ExpertInputGradient final : public Op { // dy, w -> dx
public:
    std::string_view name() const override { return "expert_linear_input_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        Shape shape = in[0].shape;
        shape.set(shape.rank() - 1, in[1].shape[2]);
        return {{shape, in[0].dtype}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        const int last = in[0].shape.rank() - 1;
        const Placement whole = Placement::replicate();
        std::vector<PlacementRule> rules{
            {{Placement::shard(0), Placement::shard(0)}, {Placement::shard(0)}},
            {{Placement::shard(last), Placement::shard(1)}, {Placement::partial()}},
            {{whole, Placement::shard(2)}, {Placement::shard(last)}},
        };
        for (int dim = 1; dim < last; ++dim)
            rules.push_back({{Placement::shard(dim), whole}, {Placement::shard(dim)}});
        return rules;
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType> out) const override {
        return workspace_of(stream, product(in[0], in[1], out[0].dtype));
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType> out) const override {
        return static_cast<double>(in[1].shape[0]) * flops_of(product(in[0], in[1], out[0].dtype));
    }
    void run(Stream& stream, const Operands& a) const override {
        multiply_experts(stream, product(a.inputs[0], a.inputs[1], a.outputs[0].dtype), a.inputs[0], a.inputs[1], {},
                         a);
    }

private:
    static Matmul product(const auto& dy, const auto& w, DType output) { // of types or of views
        return {.m = rows_of(dy), .n = w.shape[2], .k = w.shape[1], .input = dy.dtype, .output = output};
    }
};

class ExpertWeightGradient final : public Op { // dy, x, w (where it is, not what it holds) -> dw f32
public:
    std::string_view name() const override { return "expert_linear_weight_gradient"; }
    bool ignores(std::size_t input) const override { return input == 2; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {{in[2].shape, DType::f32}}; }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        const int last = in[0].shape.rank() - 1;
        const Placement whole = Placement::replicate(), experts = Placement::shard(0);
        std::vector<PlacementRule> rules{
            {{experts, experts, experts}, {experts}},
            {{Placement::shard(last), whole, Placement::shard(1)}, {Placement::shard(1)}},
            {{whole, Placement::shard(last), Placement::shard(2)}, {Placement::shard(2)}},
        };
        for (int dim = 1; dim < last; ++dim)
            rules.push_back({{Placement::shard(dim), Placement::shard(dim), whole}, {Placement::partial()}});
        return rules;
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType> out) const override {
        return workspace_of(stream, product(in[0], in[1], out[0].dtype));
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType> out) const override {
        return static_cast<double>(in[0].shape[0]) * flops_of(product(in[0], in[1], out[0].dtype));
    }
    void run(Stream& stream, const Operands& a) const override {
        multiply_experts(stream, product(a.inputs[0], a.inputs[1], a.outputs[0].dtype), a.inputs[0], a.inputs[1], {},
                         a);
    }

private:
    static Matmul product(const auto& dy, const auto& x, DType output) { // of types or of views
        return {.m = dy.shape[-1],
                .n = x.shape[-1],
                .k = rows_of(x),
                .transpose_a = true,
                .input = dy.dtype,
                .output = output};
    }
};

class ExpertBiasGradient final : public Op { // dy -> dbias f32
public:
    std::string_view name() const override { return "expert_linear_bias_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        return {{{in[0].shape[0], in[0].shape[-1]}, DType::f32}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        const int last = in[0].shape.rank() - 1;
        std::vector<PlacementRule> rules{{{Placement::shard(0)}, {Placement::shard(0)}},
                                         {{Placement::shard(last)}, {Placement::shard(1)}}};
        for (int dim = 1; dim < last; ++dim)
            rules.push_back({{Placement::shard(dim)}, {Placement::partial()}});
        return rules;
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return std::visit(
            [&](auto& s) { return kernels::sum_rows_workspace_bytes(s, rows_of(in[0]), in[0].shape[-1]); }, stream);
    }
    void run(Stream& stream, const Operands& a) const override {
        for (std::int64_t e = 0; e < a.inputs[0].shape[0]; ++e)
            std::visit(
                [&](auto& s) {
                    kernels::sum_rows(s, of_expert(a.inputs[0], e), of_expert(a.outputs[0], e), a.workspace);
                },
                stream);
    }
};

class ExpertLinear final : public Op { // x, w[, bias] -> y
public:
    std::string_view name() const override { return "expert_linear"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        const Shape &x = in[0].shape, &w = in[1].shape;
        expect_floating("input", in[0].dtype);
        expect_dtype("weight", in[1].dtype, in[0].dtype);
        expect_dims("input", in[0], 3);
        if (w.rank() != 3 || w[0] != x[0] || w[2] != x[-1])
            throw ConfigError(fmt::format("weight is {}, expected ({}, out, {})", w.text(), x[0], x[-1]));
        if (in.size() == 3) {
            expect_dtype("bias", in[2].dtype, DType::f32);
            expect_shape("bias", in[2].shape, {w[0], w[1]});
        }
        Shape shape = x;
        shape.set(x.rank() - 1, w[1]);
        return {{shape, in[0].dtype}};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        std::vector<ValueId> gradients{graph.apply_one(std::make_shared<ExpertInputGradient>(),
                                                       node.name + ".input_gradient", {dy[0], node.inputs[1]}),
                                       graph.apply_one(std::make_shared<ExpertWeightGradient>(),
                                                       node.name + ".weight_gradient",
                                                       {dy[0], node.inputs[0], node.inputs[1]})};
        if (node.inputs.size() == 3)
            gradients.push_back(
                graph.apply_one(std::make_shared<ExpertBiasGradient>(), node.name + ".bias_gradient", {dy[0]}));
        return gradients;
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        const int last = in[0].shape.rank() - 1;
        const Placement whole = Placement::replicate(), experts = Placement::shard(0);
        std::vector<PlacementRule> rules;
        const auto add_rule = [&](Placement x, Placement w, Placement bias, Placement y) {
            rules.push_back({{x, w}, {y}});
            if (in.size() == 3) rules.back().inputs.push_back(bias);
        };
        add_rule(experts, experts, experts, experts);
        for (int dim = 1; dim < last; ++dim)
            add_rule(Placement::shard(dim), whole, whole, Placement::shard(dim));
        add_rule(whole, Placement::shard(1), Placement::shard(1), Placement::shard(last));
        add_rule(Placement::shard(last), Placement::shard(2), whole, Placement::partial()); // one adds the bias
        return rules;
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType> out) const override {
        return workspace_of(stream, product(in[0], in[1], in.size() == 3, out[0].dtype));
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType> out) const override {
        return static_cast<double>(in[1].shape[0]) * flops_of(product(in[0], in[1], false, out[0].dtype));
    }
    void run(Stream& stream, const Operands& a) const override {
        const bool bias = a.inputs.size() == 3 && a.counts(2);
        multiply_experts(stream, product(a.inputs[0], a.inputs[1], bias, a.outputs[0].dtype), a.inputs[0], a.inputs[1],
                         bias ? a.inputs[2] : View(), a);
    }
    std::vector<ExampleInput> example() const override {
        return {{{{3, 4, 2, 20}, DType::f32}}, {{{3, 12, 20}, DType::f32}}, {{{3, 12}, DType::f32}}};
    }

private:
    static Matmul product(const auto& x, const auto& w, bool bias, DType output) { // of types or of views
        return {.m = rows_of(x),
                .n = w.shape[1],
                .k = w.shape[2],
                .transpose_b = true,
                .input = x.dtype,
                .output = output,
                .bias = bias};
    }
};

} // namespace

OpPointer make_expert_linear() { return std::make_shared<ExpertLinear>(); }

ValueId ops::expert_linear(Graph& graph, std::string name, ValueId x, ValueId w, ValueId bias) {
    std::vector<ValueId> inputs{x, w};
    if (bias != no_value) inputs.push_back(bias);
    return graph.apply_one(make_expert_linear(), std::move(name), std::move(inputs));
}

} // namespace tessera
