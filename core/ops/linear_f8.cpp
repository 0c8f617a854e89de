// SPDX-License-Identifier: Apache-2.0
// linear_f8: y = x w^T + bias of 8-bit factors, and its two gradients, whose third factor is rounded to e5m2, of more
// range (Micikevicius et al. 2022, "FP8 formats for deep learning", section 3). All three are products of rows with
// rows, which is why factors come transposed too.
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "core/ops/product.hpp"

namespace tessera {
namespace {

std::int64_t outer_count(const Shape& shape, int contracted) { return shape.count(0, shape.rank() - contracted); }

Matmul product_of(const auto& a, const auto& b, int contracted, DType output, bool bias) { // of types or of views
    return {.m = outer_count(a.shape, contracted),
            .n = outer_count(b.shape, contracted),
            .k = b.shape.count(b.shape.rank() - contracted, b.shape.rank()),
            .transpose_b = true,
            .input = a.dtype,
            .output = output,
            .bias = bias};
}

Shape product_shape(const Shape& a, const Shape& b, int contracted) {
    const Shape of_a = a.slice(a.rank() - contracted, a.rank()), of_b = b.slice(b.rank() - contracted, b.rank());
    if (of_a != of_b)
        throw ConfigError(fmt::format("input has {} columns, weight expects {}", of_a.text(), of_b.text()));
    Shape shape = a.slice(0, a.rank() - contracted);
    for (int dim = 0; dim < b.rank() - contracted; ++dim)
        shape.append(b[dim]);
    const std::int64_t n = outer_count(b, contracted), k = of_b.count();
    if (n % 16 != 0 || k % 16 != 0)
        throw ConfigError(fmt::format("a product of 8-bit factors wants its sizes in multiples of 16, not {} columns "
                                      "over {} terms",
                                      n, k));
    return shape;
}

// y = a b^T   a: (M..., K...) e4m3 or e5m2   b: (N..., K...) e4m3   scales: (1) f32   y: (M..., N...)
class ProductF8 final : public Op { // a, scale of a, b, scale of b -> y
public:
    ProductF8(int contracted, DType output) : contracted_(contracted), output_(output) {}
    std::string_view name() const override { return "product_f8"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        return {{product_shape(in[0].shape, in[2].shape, contracted_), output_}};
    }
    // Over parts of the batch, which is an outer dim of a, or the first that both sum over: each part has its scales.
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        const Placement batch = Placement::shard(0), all = Placement::replicate();
        return {{{batch, batch, all, all}, {batch}},
                {{Placement::shard(in[0].shape.rank() - contracted_), batch,
                  Placement::shard(in[2].shape.rank() - contracted_), batch},
                 {Placement::partial()}}};
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return std::visit([&](auto& s) { return kernels::matmul_workspace_bytes(s, product(in)); }, stream);
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType>) const override {
        return flops_of(product(in));
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::matmul(s, product(a.inputs), a.inputs[0], a.inputs[2], {}, a.outputs[0], a.workspace,
                                {a.inputs[1], a.inputs[3]});
            },
            stream);
    }

private:
    Matmul product(const auto& in) const { return product_of(in[0], in[2], contracted_, output_, false); }

    int contracted_;
    DType output_;
};

class LinearF8 final : public Op { // x, x transposed, its scale; the same of w; [bias] -> y in bf16
public:
    explicit LinearF8(int contracted) : contracted_(contracted) {}
    std::string_view name() const override { return "linear_f8"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        if (in.size() == 7) {
            expect_dtype("bias", in[6].dtype, DType::f32);
            expect_shape("bias", in[6].shape, in[3].shape.slice(0, in[3].shape.rank() - contracted_));
        }
        return {{product_shape(in[0].shape, in[3].shape, contracted_), DType::bf16}};
    }

    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        const int out_dims = graph.value(node.inputs[3]).type.shape.rank() - contracted_;
        const int leading = graph.value(node.inputs[0]).type.shape.rank() - contracted_;
        const ops::InEightBits narrow =
            ops::quantize(graph, node.name + ".output_gradient_in_f8", dy[0], DType::f8e5m2, out_dims);
        const ValueId dx =
            graph.apply_one(std::make_shared<ProductF8>(out_dims, DType::bf16), node.name + ".input_gradient",
                            {narrow.y, narrow.scale, node.inputs[4], node.inputs[5]});
        const ValueId dw =
            graph.apply_one(std::make_shared<ProductF8>(leading, DType::f32), node.name + ".weight_gradient",
                            {narrow.transposed, narrow.scale, node.inputs[1], node.inputs[2]});
        std::vector<ValueId> gradients{dx, no_value, no_value, dw, no_value, no_value};
        if (node.inputs.size() == 7)
            gradients.push_back(ops::sum_rows(graph, node.name + ".bias_gradient", dy[0], out_dims));
        return gradients;
    }

    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        const Placement batch = Placement::shard(0), all = Placement::replicate();
        std::vector<Placement> inputs{batch, Placement::shard(contracted_), batch, all, all, all};
        if (in.size() == 7) inputs.push_back(all);
        return {{inputs, {batch}}};
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return std::visit([&](auto& s) { return kernels::matmul_workspace_bytes(s, product(in)); }, stream);
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType>) const override {
        return flops_of(product(in));
    }
    void run(Stream& stream, const Operands& a) const override {
        const ConstView bias = a.inputs.size() == 7 ? ConstView(a.inputs[6]) : ConstView();
        std::visit(
            [&](auto& s) {
                kernels::matmul(s, product(a.inputs), a.inputs[0], a.inputs[3], bias, a.outputs[0], a.workspace,
                                {a.inputs[2], a.inputs[5]});
            },
            stream);
    }

private:
    Matmul product(const auto& in) const { return product_of(in[0], in[3], contracted_, DType::bf16, in.size() == 7); }

    int contracted_;
};

} // namespace

ValueId ops::linear_f8(Graph& graph, std::string name, const InEightBits& x, const InEightBits& w, ValueId bias,
                       int contracted) {
    std::vector<ValueId> inputs{x.y, x.transposed, x.scale, w.y, w.transposed, w.scale};
    if (bias != no_value) inputs.push_back(bias);
    return graph.apply_one(std::make_shared<LinearF8>(contracted), std::move(name), std::move(inputs));
}

} // namespace tessera
