// SPDX-License-Identifier: Apache-2.0
// Multi-head attention: one product for queries, keys and values, or one for queries and one for the keys and values of
// another sequence; fused attention, one product back.
#include "core/layers/layers.hpp"
#include "core/ops/encoder_ops.hpp"
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

struct Product {
    ValueId weight, bias;
};

// x w^T + bias in the shape of `parts`.
Product product_to(Builder& builder, const std::string& name, const AttentionOptions& options, const Shape& parts,
                   const std::string& role) {
    const ValueId weight =
        builder.linear_weight(name + ".weight", with(parts, {options.width}), role, options.deviation);
    return {weight, options.bias ? builder.vector(name + ".bias", parts, role, 0) : no_value};
}

} // namespace

ValueId attention(Builder& builder, std::string_view name, const AttentionOptions& options, ValueId x,
                  const AttentionContext& context) {
    const HeadLayout layout = layout_of(options, builder.path(name));
    const bool cross = context.memory != no_value;
    const bool plain = !cross && context.segments == no_value && context.bias == no_value && options.scale == 0;
    if (layout.by_group && (cross || context.bias != no_value))
        throw ConfigError(fmt::format(
            "attention '{}': heads share keys of their own sequence, and without a bias, alone", builder.path(name)));
    const Builder::Scope scope(builder, name);
    const Shape width{options.width};
    const std::int64_t head_dim = layout.out[-1];
    const std::string of_queries = cross ? "q" : "qkv";
    const Product q =
        product_to(builder, of_queries, options, cross ? Shape{1, options.heads, head_dim} : layout.qkv, layout.role);
    const Product kv = cross ? product_to(builder, "kv", options, {2, options.heads, head_dim}, layout.role)
                             : Product{no_value, no_value};
    const ValueId out_weight =
        builder.linear_weight("out.weight", with(width, layout.out), layout.output_role, options.output_deviation);
    const ValueId out_bias = options.bias ? builder.vector("out.bias", width, "bias", 0) : no_value;

    Graph& graph = builder.graph();
    ValueId qkv = builder.linear(of_queries, x, q.weight, q.bias);
    if (options.rotary && !cross)
        qkv = ops::rotary(graph, builder.path("rotary"), qkv, *options.rotary, layout.by_group);
    const ValueId of_memory = cross ? builder.linear("kv", context.memory, kv.weight, kv.bias) : no_value;
    const std::string path = builder.path("attention");
    const ValueId mixed =
        plain
            ? ops::attention(graph, path, qkv, options.causal, layout.by_group)
            : ops::cross_attention(graph, path, {qkv, of_memory, context.segments, context.key_segments, context.bias},
                                   options.causal, options.scale, layout.by_group);
    const ValueId out = builder.linear("out", mixed, out_weight, out_bias, layout.out.rank());
    if (options.dropout == 0 || !builder.training()) return out;
    return ops::dropout(graph, builder.path("dropout"), out, options.dropout);
}

} // namespace tessera::layers
