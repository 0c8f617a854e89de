// SPDX-License-Identifier: Apache-2.0
// place_rows: some rows of each sample to places of their own: a masked token among the masked ones, a class token
// before the patches. Rows without a place go nowhere, places without a row are 0.
#include "core/graph/attributes.hpp"
#include "core/ops/encoder_ops.hpp"
#include "core/ops/expect.hpp"
#include "kernels/route.hpp"

namespace tessera {
namespace {

Routing routing(const Shape& slots, std::int64_t places) {
    return {.samples = slots[0], .tokens = slots[1], .experts = 1, .choices = 1, .capacity = places};
}

class PlaceRowsGradient final : public Op { // dy, slots -> dx
public:
    explicit PlaceRowsGradient(const Shape& of_sample) : of_sample_(of_sample) {}
    std::string_view name() const override { return "place_rows_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        Shape x{in[1].shape[0]};
        for (int dim = 0; dim < of_sample_.rank(); ++dim)
            x.append(of_sample_[dim]);
        return {{x, in[0].dtype}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        const Placement partial = Placement::partial();
        return {{{Placement::shard(0), Placement::shard(0)}, {Placement::shard(0)}},
                {{partial, Placement::replicate()}, {partial}}};
    }
    void run(Stream& stream, const Operands& a) const override {
        const Routing way = routing(a.inputs[1].shape, a.inputs[0].shape[1]);
        std::visit([&](auto& s) { kernels::dispatch_tokens_gradient(s, way, a.inputs[0], a.inputs[1], a.outputs[0]); },
                   stream);
    }

private:
    Shape of_sample_; // x's, without the batch
};

class PlaceRows final : public Op { // x, slots -> y
public:
    explicit PlaceRows(std::int64_t places) : places_(places) {}
    std::string_view name() const override { return "place_rows"; }
    Attributes attributes() const override { return {{"places", places_}}; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("x", in[0].dtype);
        expect_dims("x", in[0], 3);
        expect_dtype("slots", in[1].dtype, DType::i32);
        const Shape& x = in[0].shape;
        expect_shape("slots", in[1].shape, {x[0], x.count(1, x.rank() - 1)});
        return {{{x[0], places_, x[-1]}, in[0].dtype}};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        const Shape& x = graph.value(node.inputs[0]).type.shape;
        return {graph.apply_one(std::make_shared<PlaceRowsGradient>(x.slice(1, x.rank())), node.name + ".gradient",
                                {dy[0], node.inputs[1]}),
                no_value};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        return {{{Placement::shard(0), Placement::shard(0)}, {Placement::shard(0)}}};
    }
    void run(Stream& stream, const Operands& a) const override {
        const Routing way = routing(a.inputs[1].shape, places_);
        std::visit([&](auto& s) { kernels::dispatch_tokens(s, way, a.inputs[0], a.inputs[1], a.outputs[0]); }, stream);
    }
    std::vector<ExampleInput> example() const override {
        return {{{{4, 2, 3, 18}, DType::f32}},
                {{{4, 6}, DType::i32}, false, 0, 0, [](const StepState&, const View& host) {
                     constexpr std::int32_t slots[] = {3, -1, 0, 2, -1, -1};
                     for (std::int64_t i = 0; i < host.count(); ++i)
                         host.as<std::int32_t>()[i] = slots[i % 6];
                 }}};
    }

private:
    std::int64_t places_;
};

} // namespace

OpPointer make_place_rows(std::int64_t places) { return std::make_shared<PlaceRows>(places); }

ValueId ops::place_rows(Graph& graph, std::string name, ValueId x, ValueId slots, std::int64_t places) {
    return graph.apply_one(make_place_rows(places), std::move(name), {x, slots});
}

} // namespace tessera
