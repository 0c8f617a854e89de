// SPDX-License-Identifier: Apache-2.0
// The feed-forward half of a transformer block.
#include "core/layers/layers.hpp"
#include "core/ops/ops.hpp"

namespace tessera::layers {

ValueId mlp(Builder& builder, std::string_view name, const MlpOptions& options, ValueId x) {
    const Builder::Scope scope(builder, name);
    const auto column = [&](const char* weight) {
        return builder.linear_weight(weight, {options.hidden, options.width}, "column", options.deviation);
    };
    const auto column_bias = [&](const char* bias) {
        return options.bias ? builder.vector(bias, {options.hidden}, "column", 0) : no_value;
    };
    const ValueId gate_weight = options.gated ? column("gate.weight") : no_value;
    const ValueId gate_bias = options.gated ? column_bias("gate.bias") : no_value;
    const ValueId up_weight = column("up.weight");
    const ValueId up_bias = column_bias("up.bias");
    const ValueId down_weight =
        builder.linear_weight("down.weight", {options.width, options.hidden}, "row", options.output_deviation);
    const ValueId down_bias = options.bias ? builder.vector("down.bias", {options.width}, "bias", 0) : no_value;

    Graph& graph = builder.graph();
    const ValueId gate = options.gated ? builder.linear("gate", x, gate_weight, gate_bias) : no_value;
    const ValueId up = builder.linear("up", x, up_weight, up_bias);
    const ValueId active = options.gated ? ops::gate(graph, builder.path("gated"), options.activation, gate, up)
                                         : ops::activation(graph, builder.path("activation"), options.activation, up);
    const ValueId down = builder.linear("down", active, down_weight, down_bias);
    if (options.dropout == 0 || !builder.training()) return down;
    return ops::dropout(graph, builder.path("dropout"), down, options.dropout);
}

} // namespace tessera::layers
