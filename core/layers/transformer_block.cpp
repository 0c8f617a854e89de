// SPDX-License-Identifier: Apache-2.0
// Pre-norm and post-norm transformer blocks.
#include "core/layers/layers.hpp"

namespace tessera::layers {

std::optional<Mixture> transformer_block(Builder& builder, int layer, const TransformerBlockOptions& options,
                                         ResidualStream& x, const AttentionContext& context) {
    const Builder::Scope scope(builder, fmt::format("layers.{}", layer), layer);
    x.branch = attention(builder, "attention", options.attention,
                         norm(builder, "attention_norm", options.norm, options.attention.bias, x, options.norm_epsilon),
                         context);
    const ValueId normed = norm(builder, "mlp_norm", options.norm, options.mlp.bias, x, options.norm_epsilon);
    if (options.moe.experts == 0) {
        x.branch = mlp(builder, "mlp", options.mlp, normed);
        return std::nullopt;
    }
    const Mixture mixture = moe(builder, "moe", options.moe, normed);
    x.branch = mixture.y;
    return mixture;
}

ValueId post_norm_block(Builder& builder, int layer, const TransformerBlockOptions& options, ValueId x,
                        const AttentionContext& context) {
    const Builder::Scope scope(builder, fmt::format("layers.{}", layer), layer);
    ResidualStream first{x, attention(builder, "attention", options.attention, x, context)};
    x = norm(builder, "attention_norm", options.norm, options.attention.bias, first, options.norm_epsilon);
    ResidualStream second{x, mlp(builder, "mlp", options.mlp, x)};
    return norm(builder, "mlp_norm", options.norm, options.mlp.bias, second, options.norm_epsilon);
}

} // namespace tessera::layers
