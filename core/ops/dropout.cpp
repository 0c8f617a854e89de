// SPDX-License-Identifier: Apache-2.0
// dropout: keyed by seed, step, node name and the element's place in the global batch, never by rank (Philox).
#include "kernels/dropout.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"

#include <algorithm>

namespace tessera {
namespace {

// Of the runs of elements that lie together in the whole tensor, the dims behind `cut` being whole: where in it the
// index-th of a part begins.
std::int64_t first_of_run(const Shape& whole, const Box& part, int cut, std::int64_t index) {
    std::int64_t step = whole.count(cut + 1, whole.rank());
    std::int64_t place = part.ranges[static_cast<std::size_t>(cut)].begin * step;
    for (int dim = cut - 1; dim >= 0; --dim) {
        step *= whole[dim + 1];
        const Range& range = part.ranges[static_cast<std::size_t>(dim)];
        place += (range.begin + index % range.size()) * step;
        index /= range.size();
    }
    return place;
}

class DropoutOp final : public Op {
public:
    DropoutOp(double probability, std::string stream_name)
        : probability_(static_cast<float>(probability)), stream_name_(std::move(stream_name)) {}
    std::string_view name() const override { return "dropout"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("x", in[0].dtype);
        expect_dims("x", in[0], 1);
        return {in[0]};
    }
    // The gradient passes where the value passed: the same op, hence the same numbers, on dy.
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        return graph.apply(node.op, node.name + ".gradient", {dy[0]});
    }
    // A part draws the numbers that the whole draws in its place: the step's state tells the first sample of the
    // micro-batch, the locality where in it the part lies. The last dim stays whole, so that runs of elements are long.
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        return elementwise_rules(std::max(1, in[0].shape.rank() - 1), 1, 1);
    }
    int in_place_input() const override { return 0; }
    bool depends_on_step() const override { return true; }
    void run(Stream& stream, const Operands& a) const override {
        const Shape& part = a.inputs[0].shape;
        const Shape& whole = a.locality == nullptr ? part : a.locality->wholes[0];
        int cut = part.rank() - 1; // dims behind it are whole
        while (cut > 0 && part[cut] == whole[cut])
            --cut;
        const std::int64_t run = part.count(cut, part.rank());
        for (std::int64_t i = 0; i < part.count(0, cut); ++i) {
            const std::int64_t place = a.locality == nullptr ? 0 : first_of_run(whole, a.locality->inputs[0], cut, i);
            drop(stream, a, a.state.first_sample * whole.count(1, whole.rank()) + place, i * run, run);
        }
    }
    std::vector<ExampleInput> example() const override { return {{{{4, 6, 20}, DType::f32}}}; }

private:
    // Elements [begin, begin + count) of the part, which are neighbours in the global batch from element `first` on.
    void drop(Stream& stream, const Operands& a, std::int64_t first, std::int64_t begin, std::int64_t count) const {
        const kernels::Dropout dropout{probability_, random_key(a.state.seed, stream_name_),
                                       static_cast<std::uint64_t>(a.state.step), static_cast<std::uint64_t>(first)};
        const auto elements = [&](const View& view) {
            return View(static_cast<std::byte*>(view.memory()) + begin * bytes_of(view.dtype), {count}, view.dtype);
        };
        std::visit([&](auto& s) { kernels::dropout(s, dropout, elements(a.inputs[0]), elements(a.outputs[0])); },
                   stream);
    }

    float probability_;
    std::string stream_name_;
};

} // namespace

OpPointer make_dropout(double probability, std::string stream_name) {
    return std::make_shared<DropoutOp>(probability, std::move(stream_name));
}

ValueId ops::dropout(Graph& graph, std::string name, ValueId x, double probability) {
    OpPointer op = make_dropout(probability, name);
    return graph.apply_one(std::move(op), std::move(name), {x});
}

} // namespace tessera
