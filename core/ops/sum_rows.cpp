// SPDX-License-Identifier: Apache-2.0
// sum_rows: the sum over leading dims: gradients of biases and of position tables.
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/reduce.hpp"

namespace tessera {
namespace {

class SumRows final : public Op {
public:
    explicit SumRows(int dims) : dims_(dims) {}
    std::string_view name() const override { return "sum_rows"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("x", in[0].dtype);
        expect_dims("x", in[0], dims_);
        return {{in[0].shape.slice(in[0].shape.rank() - dims_, in[0].shape.rank()), DType::f32}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        const int leading = in[0].shape.rank() - dims_;
        for (int dim = 0; dim < in[0].shape.rank(); ++dim)
            rules.push_back(
                {{Placement::shard(dim)}, {dim < leading ? Placement::partial() : Placement::shard(dim - leading)}});
        return rules;
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType> out) const override {
        const std::int64_t columns = out[0].shape.count();
        const std::int64_t rows = columns == 0 ? 0 : in[0].shape.count() / columns;
        return std::visit([&](auto& s) { return kernels::sum_rows_workspace_bytes(s, rows, columns); }, stream);
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::sum_rows(s, a.inputs[0], a.outputs[0], a.workspace); }, stream);
    }
    std::vector<ExampleInput> example() const override { return {{{{4, 6, 18}, DType::f32}, false}}; }

private:
    int dims_;
};

} // namespace

OpPointer make_sum_rows(int dims) { return std::make_shared<SumRows>(dims); }

ValueId ops::sum_rows(Graph& graph, std::string name, ValueId x, int dims) {
    return graph.apply_one(make_sum_rows(dims), std::move(name), {x});
}

} // namespace tessera
