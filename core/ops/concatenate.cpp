// SPDX-License-Identifier: Apache-2.0
// concatenate: tensors side by side in the last dim, and their gradients, which are cut apart again. Elements are moved
// as they are.
#include "core/graph/attributes.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/copy.hpp"

namespace tessera {
namespace {

// From the columns `from` on, in rows of `width`.
void copy_columns(Stream& stream, ConstView x, std::int64_t width, View y, std::int64_t from) {
    const std::int64_t element = bytes_of(x.dtype), columns = x.shape[-1];
    if (x.count() == 0) return;
    const View begin{static_cast<std::byte*>(y.memory()) + from * element, {y.count() - from}, y.dtype};
    const kernels::Blocks rows{x.count() / columns, columns * element, columns * element, width * element};
    std::visit([&](auto& s) { kernels::copy_blocks(s, rows, x, begin); }, stream);
}

// All dims but the last are shared out; a sum still owed stays one.
std::vector<PlacementRule> rules(int dims, std::size_t inputs, std::size_t outputs) {
    std::vector<PlacementRule> result = elementwise_rules(dims - 1, inputs, outputs);
    result.push_back(
        {std::vector<Placement>(inputs, Placement::partial()), std::vector<Placement>(outputs, Placement::partial())});
    return result;
}

class CutColumns final : public Op { // dy (…, C1 + C2 + …) -> dx1 (…, C1), dx2 (…, C2), …
public:
    explicit CutColumns(std::vector<std::int64_t> columns) : columns_(std::move(columns)) {}
    std::string_view name() const override { return "concatenate_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        const Shape& dy = in[0].shape;
        std::vector<TensorType> result;
        for (const std::int64_t columns : columns_) {
            result.push_back({dy.slice(0, dy.rank() - 1), in[0].dtype});
            result.back().shape.append(columns);
        }
        return result;
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        return rules(in[0].shape.rank(), 1, columns_.size());
    }
    void run(Stream& stream, const Operands& a) const override {
        const ConstView dy = a.inputs[0];
        const std::int64_t element = bytes_of(dy.dtype), width = dy.shape[-1];
        std::int64_t from = 0;
        for (const View& dx : a.outputs) {
            const std::int64_t columns = dx.shape[-1];
            if (dx.count() == 0) return;
            const ConstView begin{
                static_cast<const std::byte*>(dy.data) + from * element, {dy.count() - from}, dy.dtype};
            const kernels::Blocks rows{dx.count() / columns, columns * element, width * element, columns * element};
            std::visit([&](auto& s) { kernels::copy_blocks(s, rows, begin, dx); }, stream);
            from += columns;
        }
    }

private:
    std::vector<std::int64_t> columns_;
};

class Concatenate final : public Op { // x1 (…, C1), x2 (…, C2), … -> y (…, C1 + C2 + …)
public:
    std::string_view name() const override { return "concatenate"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("part 1", in[0].dtype);
        expect_dims("part 1", in[0], 2);
        const Shape rows = in[0].shape.slice(0, in[0].shape.rank() - 1);
        std::int64_t width = in[0].shape[-1];
        for (std::size_t i = 1; i < in.size(); ++i) {
            const std::string part = fmt::format("part {}", i + 1);
            Shape expected = rows; // in as many columns as it likes
            expected.append(in[i].shape.rank() == 0 ? 1 : in[i].shape[-1]);
            expect_shape(part, in[i].shape, expected);
            expect_dtype(part, in[i].dtype, in[0].dtype);
            width += in[i].shape[-1];
        }
        Shape all = rows;
        all.append(width);
        return {{all, in[0].dtype}};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        std::vector<std::int64_t> columns;
        for (const ValueId input : node.inputs)
            columns.push_back(graph.value(input).type.shape[-1]);
        return graph.apply(std::make_shared<CutColumns>(std::move(columns)), node.name + ".gradient", {dy[0]});
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        return rules(in[0].shape.rank(), in.size(), 1);
    }
    bool is_cheap() const override { return true; }
    void run(Stream& stream, const Operands& a) const override {
        std::int64_t from = 0;
        for (const View& x : a.inputs) {
            copy_columns(stream, x, a.outputs[0].shape[-1], a.outputs[0], from);
            from += x.shape[-1];
        }
    }
    std::vector<ExampleInput> example() const override {
        return {{{{4, 5, 18}, DType::f32}}, {{{4, 5, 1}, DType::f32}}, {{{4, 5, 7}, DType::f32}}};
    }
};

} // namespace

OpPointer make_concatenate() { return std::make_shared<Concatenate>(); }

ValueId ops::concatenate(Graph& graph, std::string name, std::vector<ValueId> parts) {
    return graph.apply_one(make_concatenate(), std::move(name), std::move(parts));
}

} // namespace tessera
