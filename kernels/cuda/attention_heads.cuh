// SPDX-License-Identifier: Apache-2.0
// Where the heads of an attention call lie, and which keys a query sees: what all its kernels share.
#pragma once

#include "kernels/attention.hpp"
#include "kernels/cross_attention.hpp"
#include "kernels/cuda/launch.cuh"

namespace tessera::kernels {

constexpr float log2_e = 1.44269504088896341f;
constexpr float ln_2 = 0.693147180559945309f;

// Query heads count 0..B H, heads of keys 0..B G. Offsets are in elements.
struct AttentionHeads {
    static constexpr bool marked = false;
    int tokens, heads, kv_heads, head_dim;
    float scale;
    bool causal, by_group;

    explicit AttentionHeads(const AttentionShape& shape)
        : tokens(static_cast<int>(shape.tokens)), heads(static_cast<int>(shape.heads)),
          kv_heads(static_cast<int>(shape.kv_heads)), head_dim(static_cast<int>(shape.head_dim)), scale(shape.scale),
          causal(shape.causal), by_group(shape.by_group) {}

    __device__ int group() const { return heads / kv_heads; }
    __device__ int queries() const { return tokens; }
    __device__ int keys() const { return tokens; }
    // From one token to the next.
    __device__ std::int64_t q_stride() const { return qkv_stride(); }
    __device__ std::int64_t kv_stride() const { return qkv_stride(); }
    __device__ std::int64_t qkv_stride() const { return static_cast<std::int64_t>(heads + 2 * kv_heads) * head_dim; }
    __device__ std::int64_t y_stride() const { return static_cast<std::int64_t>(heads) * head_dim; }
    // Token 0 of a query head, in q, in y and among the rows of scores.
    __device__ std::int64_t q(int head) const {
        const int number = head % heads;
        return first_token(head / heads) * qkv_stride() + at(number + (by_group ? number / group() * 2 : 0));
    }
    __device__ std::int64_t y(int head) const { return first_token(head / heads) * y_stride() + at(head % heads); }
    __device__ std::int64_t row(int head) const { return first_token(head); }
    // Token 0 of a head of keys, and of its values.
    __device__ std::int64_t k(int kv_head) const {
        const int number = kv_head % kv_heads;
        return first_token(kv_head / kv_heads) * qkv_stride() +
               at(by_group ? (number + 1) * (group() + 2) - 2 : heads + number);
    }
    __device__ std::int64_t v(int kv_head) const { return k(kv_head) + at(by_group ? 1 : kv_heads); }
    // Keys that the queries below `end_query` see are [0, end_key).
    __device__ int end_key(int end_query) const { return causal && end_query < tokens ? end_query : tokens; }

private:
    __device__ std::int64_t first_token(int sequence) const { return static_cast<std::int64_t>(sequence) * tokens; }
    __device__ std::int64_t at(int head) const { return static_cast<std::int64_t>(head) * head_dim; }
};

// The same of queries over other keys, with segments and bias (kernels/cross_attention.hpp).
struct CrossAttentionHeads {
    static constexpr bool marked = true;
    int query_count, key_count, heads, kv_heads, head_dim;
    float scale;
    bool causal, packed, by_group;
    const std::int32_t *segments, *key_segments; // null: none
    const float* bias;                           // null: none

    CrossAttentionHeads(const CrossAttentionShape& shape, const CrossAttentionInputs& in)
        : query_count(static_cast<int>(shape.queries)), key_count(static_cast<int>(shape.keys)),
          heads(static_cast<int>(shape.heads)), kv_heads(static_cast<int>(shape.kv_heads)),
          head_dim(static_cast<int>(shape.head_dim)), scale(shape.scale), causal(shape.causal), packed(shape.packed),
          by_group(shape.by_group), segments(shape.segments ? in.segments.as<std::int32_t>() : nullptr),
          key_segments(shape.segments ? in.key_segments.as<std::int32_t>() : nullptr),
          bias(shape.bias ? in.bias.as<float>() : nullptr) {}

    __device__ int group() const { return heads / kv_heads; }
    __device__ int queries() const { return query_count; }
    __device__ int keys() const { return key_count; }
    __device__ std::int64_t q_stride() const {
        return static_cast<std::int64_t>(packed ? heads + 2 * kv_heads : heads) * head_dim;
    }
    __device__ std::int64_t kv_stride() const {
        return static_cast<std::int64_t>(packed ? heads + 2 * kv_heads : 2 * kv_heads) * head_dim;
    }
    __device__ std::int64_t y_stride() const { return static_cast<std::int64_t>(heads) * head_dim; }
    __device__ std::int64_t q(int head) const {
        const int number = head % heads;
        return static_cast<std::int64_t>(head / heads) * query_count * q_stride() +
               at(number + (by_group ? number / group() * 2 : 0));
    }
    __device__ std::int64_t y(int head) const {
        return static_cast<std::int64_t>(head / heads) * query_count * y_stride() + at(head % heads);
    }
    __device__ std::int64_t row(int head) const { return static_cast<std::int64_t>(head) * query_count; }
    __device__ std::int64_t k(int kv_head) const {
        const int number = kv_head % kv_heads;
        return static_cast<std::int64_t>(kv_head / kv_heads) * key_count * kv_stride() +
               at(by_group ? (number + 1) * (group() + 2) - 2 : (packed ? heads : 0) + number);
    }
    __device__ std::int64_t v(int kv_head) const { return k(kv_head) + at(by_group ? 1 : kv_heads); }
    __device__ int end_key(int end_query) const { return causal && end_query < key_count ? end_query : key_count; }
    // Of query head `head`, in units of log2; 0 beyond the last query or key.
    __device__ float bias_of(int head, int query, int key) const {
        if (bias == nullptr || query >= query_count || key >= key_count) return 0;
        return bias[static_cast<std::int64_t>(key - query + query_count - 1) * heads + head % heads] * log2_e;
    }
    // Whether a query sees a key, both within the sequence of a query head, as far as segments go.
    __device__ bool same_segment(int head, int query, int key) const {
        if (segments == nullptr || query >= query_count || key >= key_count) return true;
        const std::int64_t sequence = head / heads;
        return segments[sequence * query_count + query] == key_segments[sequence * key_count + key];
    }

private:
    __device__ std::int64_t at(int head) const { return static_cast<std::int64_t>(head) * head_dim; }
};

} // namespace tessera::kernels
