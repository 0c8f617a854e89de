// SPDX-License-Identifier: Apache-2.0
// Multi-head self-attention: one product for queries, keys and values, fused attention, one product back.
#include "core/layers/layers.hpp"
#include "core/ops/ops.hpp"
#include "kernels/error.hpp"

namespace tessera::layers {

ValueId attention(Builder& builder, std::string_view name, const AttentionOptions& options, ValueId x) {
    const std::int64_t heads = options.heads;
    if (heads < 1 || options.width % heads != 0)
        throw ConfigError(fmt::format("attention '{}': a width of {} cannot be cut into {} heads", builder.path(name),
                                      options.width, heads));
    const std::int64_t head_dim = options.width / heads;
    const Builder::Scope scope(builder, name);
    const ValueId qkv_weight =
        builder.linear_weight("qkv.weight", {3, heads, head_dim, options.width}, "head", options.deviation);
    const ValueId qkv_bias = options.bias ? builder.vector("qkv.bias", {3, heads, head_dim}, "head", 0) : no_value;
    const ValueId out_weight =
        builder.linear_weight("out.weight", {options.width, heads, head_dim}, "head_output", options.output_deviation);
    const ValueId out_bias = options.bias ? builder.vector("out.bias", {options.width}, "bias", 0) : no_value;

    Graph& graph = builder.graph();
    const ValueId qkv = builder.linear("qkv", x, qkv_weight, qkv_bias);
    const ValueId mixed = ops::attention(graph, builder.path("attention"), qkv, options.causal);
    const ValueId out = builder.linear("out", mixed, out_weight, out_bias, 2);
    if (options.dropout == 0 || !builder.training()) return out;
    return ops::dropout(graph, builder.path("dropout"), out, options.dropout);
}

} // namespace tessera::layers
