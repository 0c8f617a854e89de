// SPDX-License-Identifier: Apache-2.0
// rotary: queries and keys turned by the angles of their positions in the whole sequence, wherever it is cut. Turned
// back, they are its gradient.
#include "core/graph/attributes.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "core/ops/ring_attention.hpp"
#include "kernels/copy.hpp"
#include "kernels/error.hpp"
#include "parallel/layout/zigzag.hpp"

namespace tessera {
namespace {

class RotaryOp final : public Op { // qkv -> qkv, or with `back` dqkv -> dqkv
public:
    RotaryOp(const RotaryOptions& options, bool by_group, bool back)
        : options_(options), by_group_(by_group), back_(back) {}
    std::string_view name() const override { return back_ ? "rotary_gradient" : "rotary"; }
    Attributes attributes() const override {
        const kernels::RotaryScaling& scaling = options_.scaling;
        return {{"theta", options_.theta},
                {"factor", scaling.factor},
                {"low_turns", scaling.low_turns},
                {"high_turns", scaling.high_turns},
                {"trained", scaling.trained},
                {"by_group", by_group_},
                {"back", back_}};
    }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        attention_types(in[0], by_group_);
        if (in[0].shape[4] % 2 != 0)
            throw ConfigError(
                fmt::format("qkv is {}, expected heads of an even size: pairs of elements turn", in[0].shape.text()));
        return {in[0]};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        return {
            graph.apply_one(std::make_shared<RotaryOp>(options_, by_group_, !back_), node.name + ".gradient", {dy[0]})};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        std::vector<PlacementRule> rules;
        for (const int dim : {head_dim_of(by_group_), 0, 1})
            rules.push_back({{Placement::shard(dim)}, {Placement::shard(dim)}});
        return rules;
    }
    int in_place_input() const override { return 0; }
    void run(Stream& stream, const Operands& a) const override {
        const View &x = a.inputs[0], &y = a.outputs[0];
        if (x.data != y.data) std::visit([&](auto& s) { kernels::cast(s, x, y); }, stream);
        const Shape& shape = x.shape;
        const std::int64_t heads = shape[2] * shape[3];
        const View all(y.memory(), {shape[0], shape[1], heads, shape[4]}, y.dtype);
        if (a.locality == nullptr) return turn(stream, all, shape[3], 0);
        const Range places = a.locality->inputs[0].ranges[1];
        const Locality::Zigzag zigzag = a.locality->zigzags.empty() ? Locality::Zigzag{} : a.locality->zigzags[0];
        if (zigzag.dim != 1) return turn(stream, all, shape[3], places.begin);
        // Zig-zag: each run of neighbours of each sample by itself.
        const std::int64_t token = heads * shape[4];
        for (const ZigzagRun& run : zigzag_runs(places, a.locality->wholes[0][1], zigzag.ranks))
            for (std::int64_t sample = 0; sample < shape[0]; ++sample) {
                const std::int64_t first = (sample * shape[1] + run.places.begin - places.begin) * token;
                turn(stream,
                     View(static_cast<std::byte*>(y.memory()) + first * bytes_of(y.dtype),
                          {1, run.places.size(), heads, shape[4]}, y.dtype),
                     shape[3], run.first);
            }
    }
    std::vector<ExampleInput> example() const override { return {{{{2, 9, 3, 4, 8}, DType::f32}}}; }

private:
    // x: (B, T, heads of q, k and v, D), by group of `period` heads
    void turn(Stream& stream, const View& x, std::int64_t period, std::int64_t first_position) const {
        if (x.count() == 0) return;
        kernels::Rotary which{.theta = options_.theta,
                              .pairs = kernels::RotaryPairs::half,
                              .first_position = first_position,
                              .scaling = options_.scaling};
        which.heads = by_group_ ? period - 1 : x.shape[2] / 3 * 2;
        which.period = by_group_ ? period : 0;
        std::visit([&](auto& s) { back_ ? kernels::rotary_gradient(s, which, x) : kernels::rotary(s, which, x); },
                   stream);
    }

    RotaryOptions options_;
    bool by_group_, back_;
};

} // namespace

OpPointer make_rotary(const RotaryOptions& options, bool by_group) {
    return std::make_shared<RotaryOp>(options, by_group, false);
}

ValueId ops::rotary(Graph& graph, std::string name, ValueId qkv, const RotaryOptions& options, bool by_group) {
    return graph.apply_one(make_rotary(options, by_group), std::move(name), {qkv});
}

} // namespace tessera
