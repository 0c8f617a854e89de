// SPDX-License-Identifier: Apache-2.0
// A pre-norm transformer block.
#include "core/layers/layers.hpp"
#include "core/ops/ops.hpp"

namespace tessera::layers {

ValueId transformer_block(Builder& builder, int layer, const TransformerBlockOptions& options, ValueId x) {
    const Builder::Scope scope(builder, fmt::format("layers.{}", layer), layer);
    Graph& graph = builder.graph();
    const ValueId attended = attention(builder, "attention", options.attention,
                                       norm(builder, "attention_norm", options.norm, options.attention.bias, x));
    x = ops::add(graph, builder.path("attention_residual"), x, attended);
    const ValueId transformed =
        mlp(builder, "mlp", options.mlp, norm(builder, "mlp_norm", options.norm, options.mlp.bias, x));
    return ops::add(graph, builder.path("mlp_residual"), x, transformed);
}

} // namespace tessera::layers
