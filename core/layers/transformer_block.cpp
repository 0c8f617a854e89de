// SPDX-License-Identifier: Apache-2.0
// A pre-norm transformer block.
#include "core/layers/layers.hpp"

namespace tessera::layers {

std::optional<Mixture> transformer_block(Builder& builder, int layer, const TransformerBlockOptions& options,
                                         ResidualStream& x) {
    const Builder::Scope scope(builder, fmt::format("layers.{}", layer), layer);
    x.branch =
        attention(builder, "attention", options.attention,
                  norm(builder, "attention_norm", options.norm, options.attention.bias, x, options.norm_epsilon));
    const ValueId normed = norm(builder, "mlp_norm", options.norm, options.mlp.bias, x, options.norm_epsilon);
    if (options.moe.experts == 0) {
        x.branch = mlp(builder, "mlp", options.mlp, normed);
        return std::nullopt;
    }
    const Mixture mixture = moe(builder, "moe", options.moe, normed);
    x.branch = mixture.y;
    return mixture;
}

} // namespace tessera::layers
