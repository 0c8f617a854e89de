// SPDX-License-Identifier: Apache-2.0
// A mixture of experts in the place of a block's MLP: each token goes to a few of many MLPs.
#include "core/layers/layers.hpp"
#include "core/ops/ops.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <cmath>

namespace tessera::layers {

std::int64_t expert_capacity(const MoeOptions& options, std::int64_t tokens) {
    const double even = static_cast<double>(options.choices * tokens) / static_cast<double>(options.experts);
    const double room = std::ceil(even * options.capacity_factor);
    return static_cast<std::int64_t>(std::clamp(room, 1.0, static_cast<double>(tokens))); // no token comes twice
}

Mixture moe(Builder& builder, std::string_view name, const MoeOptions& options, ValueId x) {
    const Builder::Scope scope(builder, name);
    const MlpOptions& mlp = options.expert;
    const std::int64_t experts = options.experts;
    const ValueId router = builder.exact_matrix("router.weight", {experts, mlp.width}, "router", mlp.deviation);
    const ValueId gate_weight =
        mlp.gated ? builder.matrix("gate.weight", {experts, mlp.hidden, mlp.width}, "expert_column", mlp.deviation)
                  : no_value;
    const ValueId gate_bias =
        mlp.gated && mlp.bias ? builder.vector("gate.bias", {experts, mlp.hidden}, "expert_column", 0) : no_value;
    const ValueId up_weight =
        builder.matrix("up.weight", {experts, mlp.hidden, mlp.width}, "expert_column", mlp.deviation);
    const ValueId up_bias = mlp.bias ? builder.vector("up.bias", {experts, mlp.hidden}, "expert_column", 0) : no_value;
    const ValueId down_weight =
        builder.matrix("down.weight", {experts, mlp.width, mlp.hidden}, "expert_row", mlp.output_deviation);
    const ValueId down_bias = mlp.bias ? builder.vector("down.bias", {experts, mlp.width}, "expert", 0) : no_value;

    Graph& graph = builder.graph();
    const std::int64_t capacity = expert_capacity(options, graph.value(x).type.shape[1]);
    // In f32 whatever the compute type: rounded logits make other choices (Fedus et al. 2021, section 2.4).
    const ValueId exact =
        builder.compute() == DType::f32 ? x : ops::cast(graph, builder.path("router.input"), x, DType::f32);
    const ValueId logits = ops::linear(graph, builder.path("router"), exact, router, no_value);
    const ops::Routed routed = ops::route(graph, builder.path("route"), logits,
                                          {.choices = options.choices,
                                           .capacity = capacity,
                                           .balance = static_cast<float>(options.balance),
                                           .z = static_cast<float>(options.z)});
    const ValueId there = ops::dispatch(graph, builder.path("dispatch"), x, routed.slots, experts, capacity);
    const ValueId up = ops::expert_linear(graph, builder.path("up"), there, up_weight, up_bias);
    ValueId active = no_value;
    if (mlp.gated) {
        const ValueId gate = ops::expert_linear(graph, builder.path("gate"), there, gate_weight, gate_bias);
        active = ops::gate(graph, builder.path("gated"), mlp.activation, gate, up);
    } else {
        active = ops::activation(graph, builder.path("activation"), mlp.activation, up);
    }
    const ValueId down = ops::expert_linear(graph, builder.path("down"), active, down_weight, down_bias);
    const ValueId back = ops::combine(graph, builder.path("combine"), down, routed.gates, routed.slots);
    const bool drops = mlp.dropout != 0 && builder.training();
    return {drops ? ops::dropout(graph, builder.path("dropout"), back, mlp.dropout) : back, routed.loss, routed.losses};
}

} // namespace tessera::layers
