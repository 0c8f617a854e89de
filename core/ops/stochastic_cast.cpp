// SPDX-License-Identifier: Apache-2.0
// stochastic_cast: f32 rounded to bf16 by chance, keyed by seed, step, name and the element's index, never by rank.
#include "kernels/stochastic_cast.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/random.hpp"

#include <algorithm>

namespace tessera {
namespace {

void write_step(const StepState& state, const View& host) {
    kernels::write_draw(host, state.seed, static_cast<std::uint64_t>(state.step), 0);
}

class StochasticCast final : public Op { // x, draw -> y
public:
    explicit StochasticCast(std::string_view stream_name) : stream_(random_key(0, stream_name).stream) {}
    std::string_view name() const override { return "stochastic_cast"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_dtype("x", in[0].dtype, DType::f32);
        return {{in[0].shape, DType::bf16}};
    }
    // A weight's gradient is f32 already. That a sum of roundings has no slope does not matter: its mean has.
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        if (graph.value(dy[0]).type.dtype == DType::f32) return {dy[0], no_value};
        return {ops::cast(graph, node.name + ".gradient", dy[0], DType::f32), no_value};
    }
    // A part draws the numbers that the whole draws in its place.
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules = elementwise_rules(in[0].shape.rank(), 2, 1);
        for (PlacementRule& rule : rules)
            rule.inputs[1] = Placement::replicate();
        return rules;
    }
    std::optional<std::vector<Placement>> placed(std::span<const TensorType> types,
                                                 std::span<const Placement> inputs) const override {
        if (inputs[0] == Placement::flat() && inputs[1] == Placement::replicate()) return std::vector{inputs[0]};
        return Op::placed(types, inputs);
    }
    void run(Stream& stream, const Operands& a) const override {
        if (a.locality == nullptr || a.inputs[0].count() == a.locality->wholes[0].count())
            return round(stream, a, 0, 0, a.inputs[0].count());
        const Box& part = a.locality->inputs[0];
        const Range run = a.locality->runs[0];
        for_each_run(a.locality->wholes[0], part, [&](std::int64_t in_whole, std::int64_t in_part, std::int64_t count) {
            const std::int64_t begin = std::max(in_part, run.begin), end = std::min(in_part + count, run.end);
            if (begin < end) round(stream, a, in_whole + begin - in_part, begin - run.begin, end - begin);
        });
    }

private:
    // Elements [begin, begin + count) of what this rank holds, neighbours in the whole from element `first` on.
    void round(Stream& stream, const Operands& a, std::int64_t first, std::int64_t begin, std::int64_t count) const {
        const kernels::StochasticCast which{stream_, static_cast<std::uint64_t>(first)};
        const auto elements = [&](const View& view) {
            return View(static_cast<std::byte*>(view.memory()) + begin * bytes_of(view.dtype), {count}, view.dtype);
        };
        std::visit(
            [&](auto& s) {
                kernels::stochastic_cast(s, which, a.inputs[1], elements(a.inputs[0]), elements(a.outputs[0]));
            },
            stream);
    }

    std::uint64_t stream_; // of the random key
};

} // namespace

ValueId ops::stochastic_cast(Graph& graph, std::string name, ValueId x) {
    OpPointer op = std::make_shared<StochasticCast>(name);
    const ValueId draw = graph.step_input("weight_rounding.draw", {{kernels::draw_words}, DType::i32}, write_step);
    return graph.apply_one(std::move(op), std::move(name), {x, draw});
}

} // namespace tessera
