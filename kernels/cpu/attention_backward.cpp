// SPDX-License-Identifier: Apache-2.0
// Attention of the heads that share keys, its gradient: softmax is found again from its logarithm, block by block of 64
// keys and 64 queries, and each block gives its part of dq, dk and dv (FlashAttention-2, algorithm 2).
#include "kernels/cpu/attention_head.hpp"

#include <algorithm>

namespace tessera::kernels {

template <class Marks> struct GradientMemory {
    float *queries, *keys, *dy, *dq;  // (padded T or S, padded D)
    float *key_panels, *value_panels; // panels of 32 keys, (D, 32) each
    float *logarithms, *deltas;       // (padded T)
    float *dk, *dv;                   // (gradient_rows, padded D)
    float *softmax, *dscores;         // (64 queries, 64 keys)
    KeyMask mask;
    Marks marks;

    template <class T> explicit GradientMemory(const GradientHead<T>& head)
        : marks(head.sizes, head.marks, head.memory + head.sizes.gradient_floats()) {
        const HeadSizes& sizes = head.sizes;
        const std::int64_t rows = sizes.padded_queries() * sizes.padded_depth();
        const std::int64_t panels = sizes.padded_keys() * sizes.depth;
        queries = head.memory;
        keys = queries + rows;
        dy = keys + sizes.padded_keys() * sizes.padded_depth();
        dq = dy + rows;
        key_panels = dq + rows;
        value_panels = key_panels + panels;
        logarithms = value_panels + panels;
        deltas = logarithms + sizes.padded_queries();
        dk = deltas + sizes.padded_queries();
        dv = dk + sizes.gradient_rows() * sizes.padded_depth();
        softmax = dv + sizes.gradient_rows() * sizes.padded_depth();
        dscores = softmax + gradient_block * score_stride;
    }

    static constexpr std::int64_t score_stride = gradient_block + simd::lanes;
};

namespace {

constexpr std::int64_t score_stride = GradientMemory<NoMarks>::score_stride;

// softmax and dscores of 8 queries and a half or whole panel of keys: p = 2^(s - logarithm), ds = p (dp - delta).
template <int V, class Marks> TESSERA_INLINE void score_tile(const HeadSizes& sizes,
                                                             const GradientMemory<Marks>& memory, std::int64_t query,
                                                             std::int64_t key, std::int64_t at) {
    const std::int64_t depth = sizes.padded_depth();
    simd::Floats sum[tile_queries][V] = {};
    simd::multiply<tile_queries, V, false>(memory.queries + query * depth, depth, memory.key_panels + key * sizes.depth,
                                           panel_keys, sizes.depth, sum);
    memory.marks.apply(query, key, sum);
    const bool masked = key + V * simd::lanes > (sizes.causal ? std::min(query + 1, sizes.keys) : sizes.keys);
    simd::unrolled<tile_queries * V>([&](auto index) TESSERA_INLINE_LAMBDA {
        constexpr int row = index / V, v = index % V;
        simd::Floats exponent = sum[row][v] - memory.logarithms[query + row];
        if (masked) {
            const std::int64_t last = sizes.causal ? std::min(query + row, sizes.keys - 1) : sizes.keys - 1;
            exponent = memory.mask.apply(exponent, key + v * simd::lanes, last);
        }
        simd::store(memory.softmax + at + row * score_stride + v * simd::lanes, power_of_two(exponent));
        sum[row][v] = simd::Floats{};
    });
    simd::multiply<tile_queries, V, false>(memory.dy + query * depth, depth, memory.value_panels + key * sizes.depth,
                                           panel_keys, sizes.depth, sum);
    simd::unrolled<tile_queries * V>([&](auto index) TESSERA_INLINE_LAMBDA {
        constexpr int row = index / V, v = index % V;
        const std::int64_t offset = at + row * score_stride + v * simd::lanes;
        const simd::Floats power = simd::load(memory.softmax + offset);
        const simd::Floats dscores = power * (sum[row][v] - memory.deltas[query + row]);
        simd::store(memory.dscores + offset, dscores);
        memory.marks.add_to_gradient(query + row, key + v * simd::lanes, dscores);
    });
}

// to (8 rows, D) += a (8, count) b (count, D) for all of D.
template <bool k_outer>
TESSERA_INLINE void add_product(const float* a, const float* b, std::int64_t count, std::int64_t depth, float* to) {
    const auto add = [&](auto vectors, std::int64_t d) TESSERA_INLINE_LAMBDA {
        constexpr int V = decltype(vectors)::value;
        simd::Floats sum[tile_queries][V];
        simd::unrolled<tile_queries * V>([&](auto index) TESSERA_INLINE_LAMBDA {
            sum[index / V][index % V] = simd::load(to + index / V * depth + d + index % V * simd::lanes);
        });
        simd::multiply<tile_queries, V, k_outer>(a, score_stride, b + d, depth, count, sum);
        simd::unrolled<tile_queries * V>([&](auto index) TESSERA_INLINE_LAMBDA {
            simd::store(to + index / V * depth + d + index % V * simd::lanes, sum[index / V][index % V]);
        });
    };
    std::int64_t d = 0;
    for (; d + 2 * simd::lanes <= depth; d += 2 * simd::lanes)
        add(std::integral_constant<int, 2>{}, d);
    if (d < depth) add(std::integral_constant<int, 1>{}, d);
}

// One block: queries [query, query + 64), keys [key, key + 64), as far as there are such. dk and dv: (64, padded D)
template <class Marks> TESSERA_INLINE void add_block(const HeadSizes& sizes, const GradientMemory<Marks>& memory,
                                                     std::int64_t query, std::int64_t key, float* dk, float* dv) {
    const std::int64_t depth = sizes.padded_depth();
    const bool diagonal = sizes.causal && query == key;
    const std::int64_t query_count = std::min(gradient_block, sizes.queries - query);
    const std::int64_t key_count = std::min(gradient_block, sizes.keys - key);
    for (std::int64_t row = 0; row < query_count; row += tile_queries) {
        const std::int64_t seen = diagonal ? std::min(row + tile_queries, key_count) : key_count;
        for (std::int64_t column = 0; column < seen; column += panel_keys)
            if (seen - column > simd::lanes)
                score_tile<2>(sizes, memory, query + row, key + column, row * score_stride + column);
            else
                score_tile<1>(sizes, memory, query + row, key + column, row * score_stride + column);
        add_product<false>(memory.dscores + row * score_stride, memory.keys + key * depth, seen, depth,
                           memory.dq + (query + row) * depth);
    }
    for (std::int64_t column = 0; column < key_count; column += tile_queries) {
        const std::int64_t first = diagonal ? column : 0; // earlier queries do not see these keys
        const std::int64_t at = first * score_stride + column;
        add_product<true>(memory.softmax + at, memory.dy + (query + first) * depth, query_count - first, depth,
                          dv + column * depth);
        add_product<true>(memory.dscores + at, memory.queries + (query + first) * depth, query_count - first, depth,
                          dk + column * depth);
    }
}

} // namespace

// The loops that take the time, once for all types of elements.
using PlainMemory = GradientMemory<NoMarks>;
using MarkedMemory = GradientMemory<PackedMarks>;
TESSERA_MULTIVERSION void add_gradient_block(const HeadSizes& sizes, const PlainMemory& memory, std::int64_t query,
                                             std::int64_t key, float* dk, float* dv) {
    add_block(sizes, memory, query, key, dk, dv);
}
TESSERA_MULTIVERSION void add_marked_gradient_block(const HeadSizes& sizes, const MarkedMemory& memory,
                                                    std::int64_t query, std::int64_t key, float* dk, float* dv) {
    add_block(sizes, memory, query, key, dk, dv);
}

namespace {

template <class T> TESSERA_INLINE void write_rows(const HeadSizes& sizes, const float* from, std::int64_t first_row,
                                                  float factor, T* to, std::int64_t times, std::int64_t stride) {
    const std::int64_t end = std::min(first_row + gradient_block, times);
    for (std::int64_t row = first_row; row < end; ++row)
        for (std::int64_t d = 0; d < sizes.depth; d += simd::lanes)
            store_part(to + row * stride + d, simd::load(from + (row - first_row) * sizes.padded_depth() + d) * factor,
                       sizes.depth - d);
}

template <class T, class Marks>
TESSERA_INLINE void prepare_keys(const GradientHead<T>& head, const GradientMemory<Marks>& memory) {
    const HeadSizes& sizes = head.sizes;
    pack_rows(sizes, head.k, sizes.keys, sizes.kv_stride, 0, sizes.padded_keys(), 1, memory.keys);
    pack_keys(sizes, head.k, sizes.padded_keys(), memory.key_panels);
    pack_keys(sizes, head.v, sizes.padded_keys(), memory.value_panels);
}

template <class T, class Marks>
TESSERA_INLINE void prepare_queries(const GradientHead<T>& head, GradientMemory<Marks>& memory, std::int64_t member) {
    const HeadSizes& sizes = head.sizes;
    const std::int64_t times = sizes.padded_queries(), at = member * sizes.depth;
    constexpr float of_none = std::is_same_v<Marks, NoMarks> ? 0 : -no_score; // what a bias adds to is then far below
    memory.marks.begin(sizes, member);
    pack_rows(sizes, head.q + at, sizes.queries, sizes.q_stride, 0, times, sizes.scale * log2_e, memory.queries);
    pack_rows(sizes, head.dy + at, sizes.queries, sizes.y_stride, 0, times, 1, memory.dy);
    std::memset(memory.dq, 0, static_cast<std::size_t>(times * sizes.padded_depth()) * sizeof(float));
    for (std::int64_t time = 0; time < times; ++time) {
        simd::Floats sum{};
        for (std::int64_t d = 0; time < sizes.queries && d < sizes.depth; d += simd::lanes)
            sum += load_part(head.y + at + time * sizes.y_stride + d, sizes.depth - d) *
                   simd::load(memory.dy + time * sizes.padded_depth() + d);
        memory.deltas[time] = simd::sum(sum);
        memory.logarithms[time] =
            time < sizes.queries ? head.log_sum_exp[member * sizes.queries + time] * log2_e : of_none;
    }
}

// One query head: its dq, and its part of dk and dv, which the last of the group writes.
template <class T, class Marks> TESSERA_INLINE void
differentiate(const GradientHead<T>& head, const GradientMemory<Marks>& memory, std::int64_t member) {
    const HeadSizes& sizes = head.sizes;
    const auto block_bytes = static_cast<std::size_t>(gradient_block * sizes.padded_depth()) * sizeof(float);
    for (std::int64_t key = 0; key < sizes.keys; key += gradient_block) {
        const std::int64_t at = sizes.group == 1 ? 0 : key * sizes.padded_depth();
        if (member == 0) {
            std::memset(memory.dk + at, 0, block_bytes);
            std::memset(memory.dv + at, 0, block_bytes);
        }
        for (std::int64_t query = sizes.causal ? key : 0; query < sizes.queries; query += gradient_block)
            if constexpr (std::is_same_v<Marks, NoMarks>)
                add_gradient_block(sizes, memory, query, key, memory.dk + at, memory.dv + at);
            else
                add_marked_gradient_block(sizes, memory, query, key, memory.dk + at, memory.dv + at);
        if (member + 1 < sizes.group) continue;
        write_rows(sizes, memory.dk + at, key, ln_2, head.dk, sizes.keys,
                   sizes.kv_stride); // queries hold scale / ln 2 already
        write_rows(sizes, memory.dv + at, key, 1, head.dv, sizes.keys, sizes.kv_stride);
    }
    for (std::int64_t query = 0; query < sizes.queries; query += gradient_block)
        write_rows(sizes, memory.dq + query * sizes.padded_depth(), query, sizes.scale, head.dq + member * sizes.depth,
                   sizes.queries, sizes.q_stride);
    memory.marks.end(sizes, member);
}

template <class Marks, class T> TESSERA_INLINE void differentiate(const GradientHead<T>& head) {
    GradientMemory<Marks> memory(head);
    prepare_keys(head, memory);
    for (std::int64_t member = 0; member < head.sizes.group; ++member) {
        prepare_queries(head, memory, member);
        differentiate(head, memory, member);
    }
}

} // namespace

TESSERA_MULTIVERSION void attention_gradient_head_f32(const GradientHead<float>& head) { differentiate<NoMarks>(head); }
TESSERA_MULTIVERSION void attention_gradient_head_bf16(const GradientHead<BFloat16>& head) {
    differentiate<NoMarks>(head);
}
TESSERA_MULTIVERSION void attention_gradient_head_f16(const GradientHead<Float16>& head) {
    differentiate<NoMarks>(head);
}
TESSERA_MULTIVERSION void marked_gradient_head_f32(const GradientHead<float>& head) {
    differentiate<PackedMarks>(head);
}
TESSERA_MULTIVERSION void marked_gradient_head_bf16(const GradientHead<BFloat16>& head) {
    differentiate<PackedMarks>(head);
}
TESSERA_MULTIVERSION void marked_gradient_head_f16(const GradientHead<Float16>& head) {
    differentiate<PackedMarks>(head);
}

void attention_gradient_head(const GradientHead<float>& head) {
    head.marks.any() ? marked_gradient_head_f32(head) : attention_gradient_head_f32(head);
}
void attention_gradient_head(const GradientHead<BFloat16>& head) {
    head.marks.any() ? marked_gradient_head_bf16(head) : attention_gradient_head_bf16(head);
}
void attention_gradient_head(const GradientHead<Float16>& head) {
    head.marks.any() ? marked_gradient_head_f16(head) : attention_gradient_head_f16(head);
}

} // namespace tessera::kernels
