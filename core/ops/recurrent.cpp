// SPDX-License-Identifier: Apache-2.0
// The weight's gradient is one product over all steps and rows.
#include "core/ops/recurrent.hpp"

#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "core/ops/product.hpp"
#include "core/ops/room.hpp"
#include "kernels/copy.hpp"

namespace tessera {
namespace {

View rows_from(const View& view, std::int64_t element) {
    return {
        static_cast<std::byte*>(view.memory()) + element * bytes_of(view.dtype), {view.count() - element}, view.dtype};
}

class RecurrentWeightGradient final : public Op { // dq, y[, h0] -> dw
public:
    std::string_view name() const override { return "recurrent_weight_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        const Shape& dq = in[0].shape;
        return {{{dq[2], dq[3], dq[4], dq[4]}, DType::f32}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        return {{std::vector<Placement>(in.size(), Placement::shard(0)), {Placement::partial()}}};
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return Work(stream, in[0], nullptr).bytes;
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType>) const override {
        return recurrent_flops(in[0].shape);
    }
    void run(Stream& stream, const Operands& a) const override {
        const View h0 = a.inputs.size() == 3 ? a.inputs[2] : View();
        const TensorType dq{a.inputs[0].shape, a.inputs[0].dtype};
        const Work work(stream, dq, static_cast<std::byte*>(a.workspace.memory()));
        std::visit([&](auto& s) { work.run(s, a.inputs[0], a.inputs[1], h0, a.outputs[0]); }, stream);
    }

private:
    struct Work {
        RecurrentSizes n;
        std::int64_t wide; // G H
        Matmul product;    // of a direction
        View first;        // (B, D H): h0 in x's type, or zeros
        View before;       // (B, T, H): h' of a direction
        View slopes;       // (B, T, G, H): dq of a direction; where there is but one, dq itself
        View library;      // matmul's own
        std::int64_t bytes;

        Work(const Stream& stream, const TensorType& dq, std::byte* memory)
            : n(recurrent_sizes(dq.shape)), wide(dq.shape[3] * dq.shape[4]), product{.m = wide,
                                                                                     .n = n.hidden,
                                                                                     .k = n.rows * n.steps,
                                                                                     .transpose_a = true,
                                                                                     .input = dq.dtype} {
            Room room(memory);
            first = room.take({n.state()}, dq.dtype);
            before = room.take({n.rows * n.steps * n.hidden}, dq.dtype);
            if (n.directions > 1) slopes = room.take({n.rows * n.steps * wide}, dq.dtype);
            library = room.take({workspace_of(stream, product) / 4}, DType::f32);
            bytes = room.bytes();
        }

        // Every row of y one step on, and then what comes before the first step of each sequence.
        void run(auto& stream, const View& dq, const View& y, const View& h0, const View& dw) const {
            const std::int64_t element = bytes_of(y.dtype), row = n.hidden * element, rows = n.rows * n.steps;
            if (h0)
                kernels::cast(stream, h0, first);
            else
                kernels::fill(stream, first, 0);
            for (std::int64_t d = 0; d < n.directions; ++d) {
                const View of_direction = rows_from(y, d * n.hidden);
                const kernels::Blocks shifted{rows - 1, row, n.directions * row, row};
                if (rows > 1 && d == 0)
                    kernels::copy_blocks(stream, shifted, of_direction, rows_from(before, n.hidden));
                else if (rows > 1)
                    kernels::copy_blocks(stream, shifted, rows_from(of_direction, n.directions * n.hidden), before);
                kernels::copy_blocks(stream, {n.rows, row, n.directions * row, n.steps * row},
                                     rows_from(first, d * n.hidden),
                                     rows_from(before, d == 0 ? 0 : (n.steps - 1) * n.hidden));
                View slopes_here = dq;
                if (n.directions > 1) {
                    kernels::copy_blocks(stream, {rows, wide * element, n.directions * wide * element, wide * element},
                                         rows_from(dq, d * wide), slopes);
                    slopes_here = slopes;
                }
                const std::int64_t count = wide * n.hidden;
                kernels::matmul(stream, product, slopes_here, before, {},
                                View(dw.template as<float>() + d * count, {count}, DType::f32), library);
            }
        }
    };
};

class CarryState final : public Op { // state, what the step has left[, factor] ->
public:
    std::string_view name() const override { return "carry_state"; }
    std::vector<TensorType> infer(std::span<const TensorType>) const override { return {}; }
    std::vector<int> writes() const override { return {0}; }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                if (a.inputs.size() == 3)
                    kernels::replace(s, a.inputs[2], a.inputs[1], a.inputs[0]);
                else
                    kernels::cast(s, a.inputs[1], a.inputs[0]);
            },
            stream);
    }
};

} // namespace

void ops::carry_state(Graph& graph, std::string name, const CarriedState& of, ValueId factor) {
    std::vector<ValueId> inputs{of.state, of.left};
    if (factor != no_value) inputs.push_back(factor);
    graph.apply(std::make_shared<CarryState>(), std::move(name), std::move(inputs));
}

void expect_recurrent(std::span<const TensorType> in, const RecurrentInputs& which, std::int64_t gates,
                      std::size_t states) {
    const Shape& x = in[0].shape;
    expect_floating("x", in[0].dtype);
    if (x.rank() != 5 || x[3] != gates)
        throw ConfigError(fmt::format("x is {}, expected (rows, steps, directions, {}, units)", x.text(), gates));
    if (x[2] < 1 || x[2] > 2) throw ConfigError(fmt::format("{} directions, expected 1 or 2", x[2]));
    expect_shape("weight", in[1].shape, {x[2], gates, x[4], x[4]});
    expect_dtype("weight", in[1].dtype, in[0].dtype);
    if (which.bias) {
        expect_shape("bias", in[2].shape, {x[2], gates, x[4]});
        expect_dtype("bias", in[2].dtype, DType::f32);
    }
    for (std::size_t i = 0; which.states && i < states; ++i) {
        expect_shape("state", in[which.first_state() + i].shape, {x[0], x[2] * x[4]});
        expect_dtype("state", in[which.first_state() + i].dtype, DType::f32);
    }
}

ValueId recurrent_weight_gradient(Graph& graph, std::string name, ValueId dq, ValueId y, ValueId h0) {
    std::vector<ValueId> inputs{dq, y};
    if (h0 != no_value) inputs.push_back(h0);
    return graph.apply_one(std::make_shared<RecurrentWeightGradient>(), std::move(name), std::move(inputs));
}

PlacementRule rule_of_rows(std::size_t inputs, std::span<const std::size_t> shared, std::size_t outputs) {
    PlacementRule rule{std::vector<Placement>(inputs, Placement::shard(0)),
                       std::vector<Placement>(outputs, Placement::shard(0))};
    for (const std::size_t input : shared)
        rule.inputs[input] = Placement::replicate();
    return rule;
}

std::int64_t recurrent_workspace(const Stream& stream, const RecurrentSizes& sizes, std::int64_t gates, DType dtype) {
    return std::visit([&](auto& s) { return kernels::recurrent_workspace_bytes(s, sizes, gates, dtype); }, stream);
}

double recurrent_flops(const Shape& x) { return 2.0 * static_cast<double>(x.count()) * static_cast<double>(x[4]); }

} // namespace tessera
