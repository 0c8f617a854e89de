// SPDX-License-Identifier: Apache-2.0
// A pre-norm transformer block.
#include "core/layers/layers.hpp"

namespace tessera::layers {

void transformer_block(Builder& builder, int layer, const TransformerBlockOptions& options, ResidualStream& x) {
    const Builder::Scope scope(builder, fmt::format("layers.{}", layer), layer);
    x.branch = attention(builder, "attention", options.attention,
                         norm(builder, "attention_norm", options.norm, options.attention.bias, x));
    x.branch = mlp(builder, "mlp", options.mlp, norm(builder, "mlp_norm", options.norm, options.mlp.bias, x));
}

} // namespace tessera::layers
