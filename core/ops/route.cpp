// SPDX-License-Identifier: Apache-2.0
// route: the experts of each token, its gates and its places among their tokens; losses that keep the load even and the
// logits small.
#include "kernels/route.hpp"
#include "core/graph/attributes.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"

namespace tessera {
namespace {

Routing routing_of(const Shape& logits, const RouteOptions& options) {
    return {.samples = logits[0],
            .tokens = logits[1],
            .experts = logits[2],
            .choices = options.choices,
            .capacity = options.capacity,
            .balance = options.balance,
            .z = options.z};
}

class RouteGradient final : public Op { // logits, gates, slots, load, dgates[, dloss] -> dlogits
public:
    explicit RouteGradient(const RouteOptions& options) : options_(options) {}
    std::string_view name() const override { return "route_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[0]}; }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        PlacementRule samples{std::vector<Placement>(in.size(), Placement::shard(0)), {Placement::shard(0)}};
        if (in.size() == 6) samples.inputs[5] = Placement::replicate();
        return {samples};
    }
    int in_place_input() const override { return 0; }
    void run(Stream& stream, const Operands& a) const override {
        const ConstView dloss = a.inputs.size() == 6 ? ConstView(a.inputs[5]) : ConstView();
        std::visit(
            [&](auto& s) {
                kernels::route_gradient(s, routing_of(a.inputs[0].shape, options_), a.inputs[0], a.inputs[1],
                                        a.inputs[2], a.inputs[3], a.inputs[4], dloss, a.outputs[0]);
            },
            stream);
    }

private:
    RouteOptions options_;
};

class Route final : public Op { // logits -> gates, slots, load, loss, losses
public:
    explicit Route(const RouteOptions& options) : options_(options) {}
    std::string_view name() const override { return "route"; }
    Attributes attributes() const override { return {{"capacity", options_.capacity}}; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("logits", in[0].dtype);
        const Shape& logits = in[0].shape;
        if (logits.rank() != 3)
            throw ConfigError(fmt::format("logits is {}, expected (batch, time, experts)", logits.text()));
        if (logits[2] < options_.choices || logits[2] > most_experts)
            throw ConfigError(
                fmt::format("logits is {}, expected {} to {} experts", logits.text(), options_.choices, most_experts));
        const Shape choices{logits[0], logits[1], options_.choices};
        return {{choices, DType::f32},
                {choices, DType::i32},
                {{logits[0], logits[2]}, DType::f32},
                {{}, DType::f32},
                {{3}, DType::f32}};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        std::vector<ValueId> inputs{node.inputs[0], node.outputs[0], node.outputs[1], node.outputs[2], dy[0]};
        if (dy[3] != no_value) inputs.push_back(dy[3]);
        return graph.apply(std::make_shared<RouteGradient>(options_), node.name + ".gradient", std::move(inputs));
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        const Placement samples = Placement::shard(0), partial = Placement::partial();
        return {{{samples}, {samples, samples, samples, partial, partial}}};
    }
    std::int64_t workspace_bytes(const Stream&, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return kernels::route_workspace_bytes(routing_of(in[0].shape, options_));
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::route(s, routing_of(a.inputs[0].shape, options_), a.inputs[0], a.outputs[0], a.outputs[1],
                               a.outputs[2], a.outputs[3], a.outputs[4], a.workspace);
            },
            stream);
    }
    // Whose random logits are so far apart that the choices stay when they are moved a little.
    std::vector<ExampleInput> example() const override { return {{{{3, 2, 4}, DType::f32}}}; }

private:
    RouteOptions options_;
};

} // namespace

OpPointer make_route(const RouteOptions& options) { return std::make_shared<Route>(options); }

ops::Routed ops::route(Graph& graph, std::string name, ValueId logits, const RouteOptions& options) {
    const std::vector<ValueId> made = graph.apply(make_route(options), std::move(name), {logits});
    return {made[0], made[1], made[3], made[4]};
}

} // namespace tessera
