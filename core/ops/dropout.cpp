// SPDX-License-Identifier: Apache-2.0
// dropout: keyed by seed, step, node name and the element's place in the global batch, never by rank (Philox). What of
// this changes is a step input.
#include "kernels/dropout.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"

namespace tessera {
namespace {

// Of each sample of the micro-batch.
void write_places(const StepState& state, const View& host) {
    for (std::int64_t row = 0; row < host.shape[0]; ++row) {
        const View place(host.as<std::int32_t>() + row * kernels::draw_words, {kernels::draw_words},
                         DType::i32);
        kernels::write_draw(place, state.seed, static_cast<std::uint64_t>(state.step),
                                     static_cast<std::uint64_t>(state.first_sample + row));
    }
}

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
    // The batch dim only: a shard of another dim would need the global index of each of its elements.
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        return {{{Placement::shard(0), Placement::shard(0)}, {Placement::shard(0)}}};
    }
    int in_place_input() const override { return 0; }
    void run(Stream& stream, const Operands& a) const override {
        const Shape& shape = a.inputs[0].shape;
        if (shape.count() == 0) return;
        const kernels::Dropout dropout{probability_, stream_, shape.count(1, shape.rank())};
        const View first(a.inputs[1].memory(), {kernels::draw_words}, DType::i32); // of the samples in a row
        std::visit([&](auto& s) { kernels::dropout(s, dropout, first, a.inputs[0], a.outputs[0]); }, stream);
    }
    std::vector<ExampleInput> example() const override {
        return {{{{4, 6, 20}, DType::f32}},
                {{{4, kernels::draw_words}, DType::i32}, false, 0, 0, write_places}};
    }

private:
    float probability_;
    std::uint64_t stream_; // of the random key
};

} // namespace

OpPointer make_dropout(double probability, std::string_view stream_name) {
    return std::make_shared<DropoutOp>(probability, stream_name);
}

ValueId ops::dropout(Graph& graph, std::string name, ValueId x, double probability) {
    OpPointer op = make_dropout(probability, name);
    const Shape places{graph.value(x).type.shape[0], kernels::draw_words};
    return graph.apply_one(std::move(op), std::move(name),
                           {x, graph.step_input("dropout.places", {places, DType::i32}, write_places)});
}

} // namespace tessera
