// SPDX-License-Identifier: Apache-2.0
// linear: y = x w^T + bias over any number of output and contracted dims, and its two gradients.
#include "core/graph/attributes.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "core/ops/product.hpp"

namespace tessera {
namespace {

// The op's three products share one run: what is multiplied by what, and which is transposed.
void multiply(Stream& stream, const Matmul& product, const View& a, const View& b, const ConstView& bias,
              const Operands& operands) {
    std::visit([&](auto& s) { kernels::matmul(s, product, a, b, bias, operands.outputs[0], operands.workspace); },
               stream);
}

// dx = dy w     dy: (..., N...)   w: (N..., K...)   dx: (..., K...)
class LinearInputGradient final : public Op {
public:
    explicit LinearInputGradient(int contracted) : contracted_(contracted) {}
    std::string_view name() const override { return "linear_input_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        const int out_dims = in[1].shape.rank() - contracted_;
        Shape shape = in[0].shape.slice(0, in[0].shape.rank() - out_dims);
        for (int dim = out_dims; dim < in[1].shape.rank(); ++dim)
            shape.append(in[1].shape[dim]);
        return {{shape, in[0].dtype}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        const int out_dims = in[1].shape.rank() - contracted_;
        const int leading = in[0].shape.rank() - out_dims;
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim < leading; ++dim)
            rules.push_back({{Placement::shard(dim), Placement::replicate()}, {Placement::shard(dim)}});
        for (int dim = 0; dim < contracted_; ++dim)
            rules.push_back(
                {{Placement::replicate(), Placement::shard(out_dims + dim)}, {Placement::shard(leading + dim)}});
        for (int dim = 0; dim < out_dims; ++dim)
            rules.push_back({{Placement::shard(leading + dim), Placement::shard(dim)}, {Placement::partial()}});
        return rules;
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType> out) const override {
        return workspace_of(stream, product(in[0], in[1], out[0].dtype));
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType> out) const override {
        return flops_of(product(in[0], in[1], out[0].dtype));
    }
    void run(Stream& stream, const Operands& a) const override {
        multiply(stream, product(a.inputs[0], a.inputs[1], a.outputs[0].dtype), a.inputs[0], a.inputs[1], {}, a);
    }

private:
    Matmul product(const auto& dy, const auto& w, DType output) const { // of types or of views
        const int out_dims = w.shape.rank() - contracted_;
        return {.m = dy.shape.count(0, dy.shape.rank() - out_dims),
                .n = w.shape.count(out_dims, w.shape.rank()),
                .k = w.shape.count(0, out_dims),
                .input = dy.dtype,
                .output = output};
    }

    int contracted_;
};

// dw = dy^T x   dy: (..., N...)   x: (..., K...)   w: (N..., K...), where it is, not what it holds   dw: like w, f32
class LinearWeightGradient final : public Op {
public:
    explicit LinearWeightGradient(int contracted) : contracted_(contracted) {}
    std::string_view name() const override { return "linear_weight_gradient"; }
    bool ignores(std::size_t input) const override { return input == 2; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {{in[2].shape, DType::f32}}; }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        const int leading = in[1].shape.rank() - contracted_;
        const int out_dims = in[0].shape.rank() - leading;
        const Placement replicate = Placement::replicate();
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim < leading; ++dim)
            rules.push_back({{Placement::shard(dim), Placement::shard(dim), replicate}, {Placement::partial()}});
        for (int dim = 0; dim < out_dims; ++dim)
            rules.push_back(
                {{Placement::shard(leading + dim), replicate, Placement::shard(dim)}, {Placement::shard(dim)}});
        for (int dim = 0; dim < contracted_; ++dim) {
            const Placement there = Placement::shard(out_dims + dim);
            rules.push_back({{replicate, Placement::shard(leading + dim), there}, {there}});
        }
        return rules;
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType> out) const override {
        return workspace_of(stream, product(in[0], in[1], out[0].dtype));
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType> out) const override {
        return flops_of(product(in[0], in[1], out[0].dtype));
    }
    void run(Stream& stream, const Operands& a) const override {
        multiply(stream, product(a.inputs[0], a.inputs[1], a.outputs[0].dtype), a.inputs[0], a.inputs[1], {}, a);
    }

private:
    Matmul product(const auto& dy, const auto& x, DType output) const { // of types or of views
        const int leading = x.shape.rank() - contracted_;
        return {.m = dy.shape.count(leading, dy.shape.rank()),
                .n = x.shape.count(leading, x.shape.rank()),
                .k = x.shape.count(0, leading),
                .transpose_a = true,
                .input = dy.dtype,
                .output = output};
    }

    int contracted_;
};

class Linear final : public Op { // x, w[, bias] -> y
public:
    explicit Linear(int contracted) : contracted_(contracted) {}
    std::string_view name() const override { return "linear"; }
    Attributes attributes() const override { return {{"contracted", std::int64_t{contracted_}}}; }

    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        const Shape& x = in[0].shape;
        const Shape& w = in[1].shape;
        expect_floating("input", in[0].dtype);
        expect_dtype("weight", in[1].dtype, in[0].dtype);
        expect_dims("input", in[0], contracted_ + 1);
        expect_dims("weight", in[1], contracted_ + 1);
        const Shape columns = x.slice(x.rank() - contracted_, x.rank());
        const Shape expected = w.slice(w.rank() - contracted_, w.rank());
        if (columns != expected)
            throw ConfigError(fmt::format("input has {} columns, weight expects {}", columns.text(), expected.text()));
        Shape shape = x.slice(0, x.rank() - contracted_);
        for (int dim = 0; dim < w.rank() - contracted_; ++dim)
            shape.append(w[dim]);
        if (in.size() == 3) {
            expect_dtype("bias", in[2].dtype, DType::f32);
            expect_shape("bias", in[2].shape, w.slice(0, w.rank() - contracted_));
        }
        return {{shape, in[0].dtype}};
    }

    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        const int out_dims = graph.value(node.inputs[1]).type.shape.rank() - contracted_;
        std::vector<ValueId> gradients{graph.apply_one(std::make_shared<LinearInputGradient>(contracted_),
                                                       node.name + ".input_gradient", {dy[0], node.inputs[1]}),
                                       graph.apply_one(std::make_shared<LinearWeightGradient>(contracted_),
                                                       node.name + ".weight_gradient",
                                                       {dy[0], node.inputs[0], node.inputs[1]})};
        if (node.inputs.size() == 3)
            gradients.push_back(ops::sum_rows(graph, node.name + ".bias_gradient", dy[0], out_dims));
        return gradients;
    }

    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        const int leading = in[0].shape.rank() - contracted_;
        const int out_dims = in[1].shape.rank() - contracted_;
        std::vector<PlacementRule> rules;
        const auto add_rule = [&](Placement x, Placement w, Placement bias, Placement y) {
            rules.push_back({{x, w}, {y}});
            if (in.size() == 3) rules.back().inputs.push_back(bias);
        };
        const Placement replicate = Placement::replicate();
        for (int dim = 0; dim < leading; ++dim)
            add_rule(Placement::shard(dim), replicate, replicate, Placement::shard(dim));
        for (int dim = 0; dim < out_dims; ++dim)
            add_rule(replicate, Placement::shard(dim), Placement::shard(dim), Placement::shard(leading + dim));
        for (int dim = 0; dim < contracted_; ++dim) // one of the ranks adds the bias
            add_rule(Placement::shard(leading + dim), Placement::shard(out_dims + dim), replicate,
                     Placement::partial());
        return rules;
    }

    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType> out) const override {
        return workspace_of(stream, product(in[0], in[1], in.size() == 3, out[0].dtype));
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType> out) const override {
        return flops_of(product(in[0], in[1], in.size() == 3, out[0].dtype));
    }
    void run(Stream& stream, const Operands& a) const override {
        const bool bias = a.inputs.size() == 3 && a.counts(2);
        multiply(stream, product(a.inputs[0], a.inputs[1], bias, a.outputs[0].dtype), a.inputs[0], a.inputs[1],
                 bias ? ConstView(a.inputs[2]) : ConstView(), a);
    }
    std::vector<ExampleInput> example() const override {
        if (contracted_ == 2) return {{{{4, 6, 4, 8}, DType::f32}}, {{{10, 4, 8}, DType::f32}}};
        return {{{{4, 6, 20}, DType::f32}}, {{{3, 4, 20}, DType::f32}}, {{{3, 4}, DType::f32}}};
    }

private:
    Matmul product(const auto& x, const auto& w, bool bias, DType output) const { // of types or of views
        const int out_dims = w.shape.rank() - contracted_;
        return {.m = x.shape.count(0, x.shape.rank() - contracted_),
                .n = w.shape.count(0, out_dims),
                .k = w.shape.count(out_dims, w.shape.rank()),
                .transpose_b = true,
                .input = x.dtype,
                .output = output,
                .bias = bias};
    }

    int contracted_;
};

} // namespace

OpPointer make_linear(int contracted) { return std::make_shared<Linear>(contracted); }

ValueId ops::linear(Graph& graph, std::string name, ValueId x, ValueId w, ValueId bias, int contracted) {
    std::vector<ValueId> inputs{x, w};
    if (bias != no_value) inputs.push_back(bias);
    return graph.apply_one(make_linear(contracted), std::move(name), std::move(inputs));
}

} // namespace tessera
