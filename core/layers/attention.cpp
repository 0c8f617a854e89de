// SPDX-License-Identifier: Apache-2.0
// Multi-head self-attention: one product for queries, keys and values, fused attention, one product back.
#include "core/layers/layers.hpp"
#include "core/ops/ops.hpp"
#include "kernels/error.hpp"

namespace tessera::layers {
namespace {

// How heads lie in the products before and behind attention.
struct HeadLayout {
    bool by_group;
    Shape qkv, out; // of the products' results and inputs, without batch and time
    std::string role, output_role;
};

HeadLayout layout_of(const AttentionOptions& options, const std::string& name) {
    const std::int64_t heads = options.heads, kv_heads = options.kv_heads == 0 ? heads : options.kv_heads;
    if (heads < 1 || (options.head_dim == 0 && options.width % heads != 0))
        throw ConfigError(
            fmt::format("attention '{}': a width of {} cannot be cut into {} heads", name, options.width, heads));
    if (kv_heads < 1 || heads % kv_heads != 0)
        throw ConfigError(fmt::format("attention '{}': {} heads cannot share {} heads of keys", name, heads, kv_heads));
    const std::int64_t head_dim = options.head_dim == 0 ? options.width / heads : options.head_dim;
    if (options.rotary && head_dim % 2 != 0)
        throw ConfigError(fmt::format("attention '{}': heads of {} have no pairs that could turn", name, head_dim));
    if (kv_heads == heads) return {false, {3, heads, head_dim}, {heads, head_dim}, "head", "head_output"};
    const std::int64_t group = heads / kv_heads;
    return {true, {kv_heads, group + 2, head_dim}, {kv_heads, group, head_dim}, "head_group", "head_output"};
}

Shape with(const Shape& first, const Shape& then) {
    Shape all = first;
    for (int dim = 0; dim < then.rank(); ++dim)
        all.append(then[dim]);
    return all;
}

} // namespace

ValueId attention(Builder& builder, std::string_view name, const AttentionOptions& options, ValueId x) {
    const HeadLayout layout = layout_of(options, builder.path(name));
    const Builder::Scope scope(builder, name);
    const Shape width{options.width};
    const ValueId qkv_weight =
        builder.linear_weight("qkv.weight", with(layout.qkv, width), layout.role, options.deviation);
    const ValueId qkv_bias = options.bias ? builder.vector("qkv.bias", layout.qkv, layout.role, 0) : no_value;
    const ValueId out_weight =
        builder.linear_weight("out.weight", with(width, layout.out), layout.output_role, options.output_deviation);
    const ValueId out_bias = options.bias ? builder.vector("out.bias", width, "bias", 0) : no_value;

    Graph& graph = builder.graph();
    ValueId qkv = builder.linear("qkv", x, qkv_weight, qkv_bias);
    if (options.rotary) qkv = ops::rotary(graph, builder.path("rotary"), qkv, *options.rotary, layout.by_group);
    const ValueId mixed = ops::attention(graph, builder.path("attention"), qkv, options.causal, layout.by_group);
    const ValueId out = builder.linear("out", mixed, out_weight, out_bias, layout.out.rank());
    if (options.dropout == 0 || !builder.training()) return out;
    return ops::dropout(graph, builder.path("dropout"), out, options.dropout);
}

} // namespace tessera::layers
