// SPDX-License-Identifier: Apache-2.0
// quantize: a matrix in 8 bits with one scale, as it lies and transposed. Gradients pass straight through it: what is
// lost by rounding has no useful slope (Bengio et al. 2013).
#include "kernels/quantize.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"

namespace tessera {
namespace {

class Quantize final : public Op { // x -> y, transposed, scale
public:
    Quantize(DType dtype, int column_dims) : dtype_(dtype), column_dims_(column_dims) {}
    std::string_view name() const override { return "quantize"; }

    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        if (in[0].dtype != DType::f32 && in[0].dtype != DType::bf16)
            throw ConfigError(fmt::format("x is {}, expected f32 or bf16", name_of(in[0].dtype)));
        expect_dims("x", in[0], column_dims_ + 1);
        const int rank = in[0].shape.rank(), row_dims = rank - column_dims_;
        Shape transposed = in[0].shape.slice(row_dims, rank);
        for (int dim = 0; dim < row_dims; ++dim)
            transposed.append(in[0].shape[dim]);
        return {{in[0].shape, dtype_}, {transposed, dtype_}, {{1}, DType::f32}};
    }
    std::vector<ValueId> gradient(Graph&, const Node&, std::span<const ValueId> dy) const override { return {dy[0]}; }
    // Parts of a batch have scales of their own: over the data axis, micro-batches.
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        const Placement batch = Placement::shard(0);
        return {{{batch}, {batch, Placement::shard(column_dims_), batch}}};
    }
    std::int64_t workspace_bytes(const Stream&, std::span<const TensorType>,
                                 std::span<const TensorType>) const override {
        return bytes_of(DType::f32); // the largest magnitude
    }
    void run(Stream& stream, const Operands& a) const override {
        const View& x = a.inputs[0];
        const int row_dims = x.shape.rank() - column_dims_;
        const View matrix(x.memory(), {x.shape.count(0, row_dims), x.shape.count(row_dims, x.shape.rank())}, x.dtype);
        const View amax(a.workspace.memory(), {1}, DType::f32);
        std::visit(
            [&](auto& s) {
                kernels::quantize(s, matrix, {a.outputs[0], a.outputs[1], amax, a.outputs[2]});
            },
            stream);
    }

private:
    DType dtype_;
    int column_dims_;
};

} // namespace

ops::InEightBits ops::quantize(Graph& graph, std::string name, ValueId x, DType dtype, int column_dims) {
    const std::vector<ValueId> made = graph.apply(std::make_shared<Quantize>(dtype, column_dims), std::move(name), {x});
    return {made[0], made[1], made[2]};
}

} // namespace tessera
