// SPDX-License-Identifier: Apache-2.0
// stochastic_cast: f32 rounded to bf16 by chance, keyed by seed, step, name and the element's index, never by rank.
#include "kernels/stochastic_cast.hpp"
#include "kernels/random.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"

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
    // Elements that lie together in the whole.
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        if (in[0].shape.rank() == 0) return {};
        return {{{Placement::shard(0), Placement::replicate()}, {Placement::shard(0)}}};
    }
    std::optional<std::vector<Placement>> placed(std::span<const TensorType> types,
                                                 std::span<const Placement> inputs) const override {
        if (inputs[0] == Placement::flat() && inputs[1] == Placement::replicate()) return std::vector{inputs[0]};
        return Op::placed(types, inputs);
    }
    void run(Stream& stream, const Operands& a) const override {
        const kernels::StochasticCast which{stream_, first_element(a)};
        std::visit([&](auto& s) { kernels::stochastic_cast(s, which, a.inputs[1], a.inputs[0], a.outputs[0]); },
                   stream);
    }

private:
    static std::uint64_t first_element(const Operands& a) {
        if (a.locality == nullptr || a.locality->wholes[0].rank() == 0) return 0;
        const Shape& whole = a.locality->wholes[0];
        return static_cast<std::uint64_t>(a.locality->inputs[0].ranges[0].begin * whole.count(1, whole.rank()) +
                                          a.locality->runs[0].begin);
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
