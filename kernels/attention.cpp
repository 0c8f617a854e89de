// SPDX-License-Identifier: Apache-2.0
// What attention refuses, on whatever machine it is to run.
#include "kernels/attention.hpp"
#include "kernels/attention_merge.hpp"
#include "kernels/cross_attention.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <limits>

namespace tessera::kernels {
namespace {

constexpr std::int64_t largest_head_dim = 256;
constexpr std::int64_t largest_int = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t longest = std::int64_t{1} << 30; // tokens: with a tile more they are still an int
constexpr std::int64_t smallest_tile = 8;               // rows of scores that some kernel gives a block of its own

void check_view(const char* name, const ConstView& view, std::int64_t count, DType dtype) {
    if (view.count() != count || view.dtype != dtype || (view.data == nullptr && count > 0))
        throw InternalError(fmt::format("attention: {} is {} {}, expected {} {}", name, view.shape.text(),
                                        name_of(view.dtype), count, name_of(dtype)));
}

} // namespace

void check_attention(const AttentionShape& shape, DType dtype) {
    if (shape.batch < 0 || shape.tokens < 0 || shape.tokens > longest)
        throw InternalError(fmt::format("attention: a batch of {} with {} tokens", shape.batch, shape.tokens));
    if (shape.kv_heads < 1 || shape.heads < shape.kv_heads || shape.heads % shape.kv_heads != 0)
        throw InternalError(
            fmt::format("attention: {} heads cannot share {} heads of keys", shape.heads, shape.kv_heads));
    // Heads and blocks of all sequences are numbered by an int.
    const std::int64_t tiles = (shape.tokens + smallest_tile - 1) / smallest_tile;
    if (shape.heads > largest_int || shape.batch > largest_int / shape.heads ||
        shape.batch * shape.heads > largest_int / std::max<std::int64_t>(tiles, 1))
        throw InternalError(fmt::format("attention: a batch of {} with {} heads and {} tokens is too much for one call",
                                        shape.batch, shape.heads, shape.tokens));
    if (shape.head_dim < 1 || shape.head_dim > largest_head_dim)
        throw InternalError(
            fmt::format("attention: a head has {} numbers, expected 1..{}", shape.head_dim, largest_head_dim));
    if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16)
        throw InternalError(fmt::format("attention of {}: only f32, bf16 and f16", name_of(dtype)));
}

void check_attention(const AttentionShape& shape, const ConstView& qkv, const ConstView& y,
                     const ConstView& log_sum_exp) {
    check_attention(shape, qkv.dtype);
    check_view("qkv", qkv, shape.qkv_count(), qkv.dtype);
    check_view("y", y, shape.y_count(), qkv.dtype);
    check_view("log_sum_exp", log_sum_exp, shape.row_count(), DType::f32);
}

void check_attention_gradient(const AttentionShape& shape, const ConstView& qkv, const ConstView& y,
                              const ConstView& dy, const ConstView& log_sum_exp, const ConstView& dqkv) {
    check_attention(shape, qkv, y, log_sum_exp);
    check_view("dy", dy, shape.y_count(), qkv.dtype);
    check_view("dqkv", dqkv, shape.qkv_count(), qkv.dtype);
}

void check_attention_merge(const AttentionPart& part, const ConstView& y, const ConstView& part_log_sum_exp,
                           const ConstView& sum, const ConstView& log_sum_exp) {
    if (part.first < 0 || part.tokens < 0 || part.first + part.tokens > part.all_tokens)
        throw InternalError(fmt::format("attention_merge: tokens {} to {} of {}", part.first, part.first + part.tokens,
                                        part.all_tokens));
    const std::int64_t rows = part.batch * part.heads;
    check_view("y", y, rows * part.tokens * part.head_dim, y.dtype);
    check_view("part_log_sum_exp", part_log_sum_exp, rows * part.tokens, DType::f32);
    check_view("sum", sum, rows * part.all_tokens * part.head_dim, DType::f32);
    check_view("log_sum_exp", log_sum_exp, rows * part.all_tokens, DType::f32);
}

void check_cross_attention(const CrossAttentionShape& shape, DType dtype) {
    for (const std::int64_t tokens : {shape.queries, shape.keys})
        check_attention({shape.batch, tokens, shape.heads, shape.kv_heads, shape.head_dim}, dtype);
    if (shape.by_group && !shape.packed) throw InternalError("cross_attention: groups of heads that are not packed");
    if (shape.packed && shape.queries != shape.keys)
        throw InternalError(fmt::format("cross_attention: {} queries lie beside {} keys", shape.queries, shape.keys));
    if ((shape.queries == 0) != (shape.keys == 0))
        throw InternalError("cross_attention: queries without keys, or keys without queries");
}

void check_cross_attention(const CrossAttentionShape& shape, const CrossAttentionInputs& in, const ConstView& y,
                           const ConstView& log_sum_exp) {
    check_cross_attention(shape, in.q.dtype);
    check_view("q", in.q, shape.q_count(), in.q.dtype);
    if (!shape.packed) check_view("kv", in.kv, shape.kv_count(), in.q.dtype);
    if (shape.segments) {
        check_view("segments", in.segments, shape.batch * shape.queries, DType::i32);
        check_view("key_segments", in.key_segments, shape.batch * shape.keys, DType::i32);
    }
    if (shape.bias) check_view("bias", in.bias, shape.bias_count(), DType::f32);
    check_view("y", y, shape.y_count(), in.q.dtype);
    check_view("log_sum_exp", log_sum_exp, shape.row_count(), DType::f32);
}

void check_cross_attention_gradient(const CrossAttentionShape& shape, const CrossAttentionInputs& in,
                                    const ConstView& y, const ConstView& dy, const ConstView& log_sum_exp,
                                    const CrossAttentionGradients& out) {
    check_cross_attention(shape, in, y, log_sum_exp);
    check_view("dy", dy, shape.y_count(), in.q.dtype);
    check_view("dq", out.q, shape.q_count(), in.q.dtype);
    if (!shape.packed) check_view("dkv", out.kv, shape.kv_count(), in.q.dtype);
    if (shape.bias) check_view("dbias", out.bias, shape.bias_count(), DType::f32);
}

} // namespace tessera::kernels
