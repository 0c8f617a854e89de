// SPDX-License-Identifier: Apache-2.0
// stochastic_cast: f32 rounded to bf16 by chance, keyed by seed, step, name and the element's index, never by rank.
#include "kernels/stochastic_cast.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"

namespace tessera {
namespace {

class StochasticCast final : public Op {
public:
    explicit StochasticCast(std::string stream_name) : stream_name_(std::move(stream_name)) {}
    std::string_view name() const override { return "stochastic_cast"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_dtype("x", in[0].dtype, DType::f32);
        return {{in[0].shape, DType::bf16}};
    }
    // A weight's gradient is f32 already. That a sum of roundings has no slope does not matter: its mean has.
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        if (graph.value(dy[0]).type.dtype == DType::f32) return {dy[0]};
        return {ops::cast(graph, node.name + ".gradient", dy[0], DType::f32)};
    }
    // No rule: a shard would need the global index of each of its elements.
    bool depends_on_step() const override { return true; }
    void run(Stream& stream, const Operands& a) const override {
        const kernels::StochasticCast which{random_key(a.state.seed, stream_name_),
                                            static_cast<std::uint64_t>(a.state.step), 0};
        std::visit([&](auto& s) { kernels::stochastic_cast(s, which, a.inputs[0], a.outputs[0]); }, stream);
    }

private:
    std::string stream_name_;
};

} // namespace

ValueId ops::stochastic_cast(Graph& graph, std::string name, ValueId x) {
    OpPointer op = std::make_shared<StochasticCast>(name);
    return graph.apply_one(std::move(op), std::move(name), {x});
}

} // namespace tessera
