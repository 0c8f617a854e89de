// SPDX-License-Identifier: Apache-2.0
// dropout: keyed by seed, step, node name and the element's place in the global batch, never by rank (Philox). What of
// this changes is a step input.
#include "kernels/dropout.hpp"
#include "core/ops/draws.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "parallel/layout/zigzag.hpp"

namespace tessera {
namespace {

class DropoutOp final : public Op { // x, places -> y
public:
    DropoutOp(double probability, std::string_view stream_name)
        : probability_(static_cast<float>(probability)), stream_(random_key(0, stream_name).stream) {}
    std::string_view name() const override { return "dropout"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("x", in[0].dtype);
        expect_dims("x", in[0], 1);
        expect_dtype("places", in[1].dtype, DType::i32);
        expect_shape("places", in[1].shape, {in[0].shape[0], kernels::draw_words});
        return {in[0]};
    }
    // The gradient passes where the value passed: the same op, hence the same numbers, on dy.
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        return {graph.apply_one(node.op, node.name + ".gradient", {dy[0], node.inputs[1]}), no_value};
    }
    // A part draws the numbers that the whole draws in its place. The last dim stays whole, so that runs of elements
    // are long.
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules = elementwise_rules(std::max(1, in[0].shape.rank() - 1), 2, 1);
        for (std::size_t dim = 1; dim < rules.size(); ++dim)
            rules[dim].inputs[1] = Placement::replicate();
        return rules;
    }
    int in_place_input() const override { return 0; }
    void run(Stream& stream, const Operands& a) const override {
        const Shape& part = a.inputs[0].shape;
        const Shape& whole = a.locality == nullptr ? part : a.locality->wholes[0];
        const std::int64_t of_sample = whole.count(1, whole.rank()), of_part = part.count(1, part.rank());
        if (part.count() == 0) return;
        if (of_part == of_sample) return drop(stream, a, of_sample, 0, 0, 0, part.count());
        for_each_neighbours(whole, *a.locality, [&](std::int64_t in_whole, std::int64_t in_part, std::int64_t count) {
            drop(stream, a, of_sample, in_part / of_part, in_whole % of_sample, in_part, count);
        });
    }
    std::vector<ExampleInput> example() const override {
        return {{{{4, 6, 20}, DType::f32}}, {{{4, kernels::draw_words}, DType::i32}, false, 0, 0, write_draws}};
    }

private:
    // As for_each_run, for a part that may be cut zig-zag: it is as many parts as runs of the sequence.
    template <class Visit>
    static void for_each_neighbours(const Shape& whole, const Locality& locality, const Visit& visit) {
        const Box& box = locality.inputs[0];
        const Locality::Zigzag zigzag = locality.zigzags.empty() ? Locality::Zigzag{} : locality.zigzags[0];
        if (zigzag.dim < 0) return for_each_run(whole, box, visit);
        const Range places = box.ranges[static_cast<std::size_t>(zigzag.dim)];
        const std::int64_t inner = box.shape().count(zigzag.dim + 1, whole.rank());
        for (const ZigzagRun& run : zigzag_runs(places, whole[zigzag.dim], zigzag.ranks)) {
            Box piece = box;
            piece.ranges[static_cast<std::size_t>(zigzag.dim)] = {run.first, run.first + run.places.size()};
            const std::int64_t step = run.places.size() * inner, begin = (run.places.begin - places.begin) * inner;
            for_each_run(whole, piece, [&](std::int64_t in_whole, std::int64_t in_piece, std::int64_t count) {
                visit(in_whole, in_piece / step * places.size() * inner + begin + in_piece % step, count);
            });
        }
    }

    // Elements [begin, begin + count) of the part, which are neighbours in the batch from element `first` of a sample
    // on.
    void drop(Stream& stream, const Operands& a, std::int64_t of_sample, std::int64_t sample, std::int64_t first,
              std::int64_t begin, std::int64_t count) const {
        const kernels::Dropout dropout{probability_, stream_, of_sample, first};
        const View draw(a.inputs[1].as<std::int32_t>() + sample * kernels::draw_words, {kernels::draw_words},
                        DType::i32);
        const auto elements = [&](const View& view) {
            return View(static_cast<std::byte*>(view.memory()) + begin * bytes_of(view.dtype), {count}, view.dtype);
        };
        std::visit([&](auto& s) { kernels::dropout(s, dropout, draw, elements(a.inputs[0]), elements(a.outputs[0])); },
                   stream);
    }

    float probability_;
    std::uint64_t stream_; // of the random key
};

} // namespace

OpPointer make_dropout(double probability, std::string_view stream_name) {
    return std::make_shared<DropoutOp>(probability, stream_name);
}

ValueId ops::dropout(Graph& graph, std::string name, ValueId x, double probability) {
    OpPointer op = make_dropout(probability, name);
    return graph.apply_one(std::move(op), std::move(name), {x, draws(graph, graph.value(x).type.shape[0])});
}

} // namespace tessera
