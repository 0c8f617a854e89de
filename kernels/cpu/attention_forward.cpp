// SPDX-License-Identifier: Apache-2.0
// Attention of one head, forward: for each eight queries all scores with up to 512 keys, their softmax, and its product
// with the values; more keys are joined by the running maximum and sum (Milakov and Gimelshein 2018; FlashAttention).
#include "kernels/cpu/attention_head.hpp"

#include <algorithm>
#include <limits>

namespace tessera::kernels {

// The softmax of eight rows so far. Scores are in units of log2, so that powers of two suffice.
struct SoftmaxRows {
    float maximum[simd::lanes], sum[simd::lanes], factor[simd::lanes]; // eight are used
};

template <class Marks> struct ForwardMemory {
    float *keys, *values, *maxima, *sums, *queries, *scores, *output;
    KeyMask mask;
    Marks marks;

    template <class T> explicit ForwardMemory(const ForwardHead<T>& head)
        : marks(head.sizes, head.marks, head.memory + head.sizes.forward_floats()) {
        const HeadSizes& sizes = head.sizes;
        keys = head.memory;
        values = keys + sizes.padded_keys() * sizes.depth;
        maxima = values + sizes.padded_keys() * sizes.padded_depth();
        sums = maxima + sizes.padded_queries();
        queries = sums + sizes.padded_queries();
        output = queries + tile_queries * sizes.padded_depth();
        scores = output + tile_queries * sizes.padded_depth();
    }
};

namespace {

// scores[8][keys] of a half or whole panel; keeps the largest of each row and lane.
template <int V, class Marks> TESSERA_INLINE void score_tile(const HeadSizes& sizes, const ForwardMemory<Marks>& memory,
                                                             std::int64_t first_query, std::int64_t key, float* to,
                                                             simd::Floats (&largest)[tile_queries]) {
    simd::Floats score[tile_queries][V] = {};
    const float* panel = memory.keys + key / panel_keys * panel_keys * sizes.depth + key % panel_keys;
    simd::multiply<tile_queries, V, false>(memory.queries, sizes.padded_depth(), panel, panel_keys, sizes.depth, score);
    memory.marks.apply(first_query, key, score);
    const bool masked = key + V * simd::lanes > (sizes.causal ? std::min(first_query + 1, sizes.keys) : sizes.keys);
    if (masked)
        simd::unrolled<tile_queries * V>([&](auto index) TESSERA_INLINE_LAMBDA {
            constexpr int row = index / V, v = index % V;
            const std::int64_t last = sizes.causal ? std::min(first_query + row, sizes.keys - 1) : sizes.keys - 1;
            score[row][v] = memory.mask.apply(score[row][v], key + v * simd::lanes, last);
        });
    simd::unrolled<tile_queries * V>([&](auto index) TESSERA_INLINE_LAMBDA {
        constexpr int row = index / V, v = index % V;
        simd::store(to + row * forward_stride + v * simd::lanes, score[row][v]);
        largest[row] = simd::max(largest[row], score[row][v]);
    });
}

// Scores become powers of two of their distance to the largest; the rows' sums go on.
template <class Marks> TESSERA_INLINE void normalise(const ForwardMemory<Marks>& memory, std::int64_t key_count,
                                                     bool first_block, const simd::Floats (&largest)[tile_queries],
                                                     SoftmaxRows& rows) {
    SoftmaxRows before = rows;
    reduce_rows(largest, rows.maximum,
                [](simd::Floats a, simd::Floats b) TESSERA_INLINE_LAMBDA { return simd::max(a, b); });
    simd::Floats maximum = simd::load(rows.maximum);
    if (!first_block) {
        maximum = simd::max(maximum, simd::load(before.maximum));
        simd::store(rows.maximum, maximum);
        simd::store(rows.factor, power_of_two(simd::load(before.maximum) - maximum));
    }
    simd::Floats sums[tile_queries];
    for (int row = 0; row < tile_queries; ++row) {
        float* scores = memory.scores + row * forward_stride;
        simd::Floats sum{};
        for (std::int64_t key = 0; key < key_count; key += simd::lanes) {
            const simd::Floats power = power_of_two(simd::load(scores + key) - rows.maximum[row]);
            simd::store(scores + key, power);
            sum += power;
        }
        sums[row] = sum;
    }
    reduce_rows(sums, rows.sum, [](simd::Floats a, simd::Floats b) TESSERA_INLINE_LAMBDA { return a + b; });
    if (!first_block) simd::store(rows.sum, simd::load(rows.sum) + simd::load(before.sum) * simd::load(rows.factor));
}

// output (8, D) = [factor * output] + scores times values
template <int V, class Marks>
TESSERA_INLINE void weigh_values(const HeadSizes& sizes, const ForwardMemory<Marks>& memory, std::int64_t first_key,
                                 std::int64_t key_count, std::int64_t d, bool first_block, const SoftmaxRows& rows) {
    const std::int64_t depth = sizes.padded_depth();
    simd::Floats sum[tile_queries][V] = {};
    if (!first_block)
        simd::unrolled<tile_queries * V>([&](auto index) TESSERA_INLINE_LAMBDA {
            constexpr int row = index / V, v = index % V;
            sum[row][v] = simd::load(memory.output + row * depth + d + v * simd::lanes) * rows.factor[row];
        });
    simd::multiply<tile_queries, V, false>(memory.scores, forward_stride, memory.values + first_key * depth + d, depth,
                                           key_count, sum);
    simd::unrolled<tile_queries * V>([&](auto index) TESSERA_INLINE_LAMBDA {
        constexpr int row = index / V, v = index % V;
        simd::store(memory.output + row * depth + d + v * simd::lanes, sum[row][v]);
    });
}

// Of the eight queries that memory.queries holds: their output, unweighted, and the softmax's rows.
template <class Marks> TESSERA_INLINE void attend_rows(const HeadSizes& sizes, const ForwardMemory<Marks>& memory,
                                                       std::int64_t first_query, SoftmaxRows& rows) {
    constexpr bool marked = !std::is_same_v<Marks, NoMarks>;
    const std::int64_t depth = sizes.padded_depth();
    const std::int64_t end_key = sizes.causal ? std::min(first_query + tile_queries, sizes.keys) : sizes.keys;
    for (std::int64_t first_key = 0; first_key < end_key; first_key += forward_keys) {
        const std::int64_t end = std::min(end_key, first_key + forward_keys);
        simd::Floats largest[tile_queries];
        simd::unrolled<tile_queries>([&](auto row) TESSERA_INLINE_LAMBDA {
            largest[row] = simd::Floats{} + (marked ? no_score : -std::numeric_limits<float>::infinity());
        });
        for (std::int64_t key = first_key; key < end; key += panel_keys) {
            if (end - key > simd::lanes)
                score_tile<2>(sizes, memory, first_query, key, memory.scores + key - first_key, largest);
            else
                score_tile<1>(sizes, memory, first_query, key, memory.scores + key - first_key, largest);
        }
        normalise(memory, end - first_key, first_key == 0, largest, rows);
        for (std::int64_t d = 0; d < depth; d += 2 * simd::lanes) {
            if (depth - d > simd::lanes)
                weigh_values<2>(sizes, memory, first_key, end - first_key, d, first_key == 0, rows);
            else
                weigh_values<1>(sizes, memory, first_key, end - first_key, d, first_key == 0, rows);
        }
    }
    simd::store(memory.maxima + first_query, simd::load(rows.maximum), tile_queries);
    simd::store(memory.sums + first_query, simd::load(rows.sum), tile_queries);
}

} // namespace

// The loops that take the time, once for all types of elements.
TESSERA_MULTIVERSION void attend_plain_rows(const HeadSizes& sizes, const ForwardMemory<NoMarks>& memory,
                                            std::int64_t first_query, SoftmaxRows& rows) {
    attend_rows(sizes, memory, first_query, rows);
}
TESSERA_MULTIVERSION void attend_marked_rows(const HeadSizes& sizes, const ForwardMemory<PackedMarks>& memory,
                                             std::int64_t first_query, SoftmaxRows& rows) {
    attend_rows(sizes, memory, first_query, rows);
}

namespace {

template <class T, class Marks>
TESSERA_INLINE void attend(const ForwardHead<T>& head, const ForwardMemory<Marks>& memory, std::int64_t first_query) {
    const HeadSizes& sizes = head.sizes;
    pack_rows(sizes, head.q, sizes.queries, sizes.q_stride, first_query, tile_queries, sizes.scale * log2_e,
              memory.queries);
    SoftmaxRows rows{};
    if constexpr (std::is_same_v<Marks, NoMarks>)
        attend_plain_rows(sizes, memory, first_query, rows);
    else
        attend_marked_rows(sizes, memory, first_query, rows);
    const std::int64_t row_count = std::min(tile_queries, sizes.queries - first_query);
    for (std::int64_t row = 0; row < row_count; ++row) {
        const float share = rows.sum[row] == 0 ? 0 : 1 / rows.sum[row]; // 0: a marked query may see no key
        for (std::int64_t d = 0; d < sizes.depth; d += simd::lanes)
            store_part(head.y + (first_query + row) * sizes.y_stride + d,
                       simd::load(memory.output + row * sizes.padded_depth() + d) * share, sizes.depth - d);
    }
}

template <class Marks, class T> TESSERA_INLINE void attend(const ForwardHead<T>& head) {
    const HeadSizes& sizes = head.sizes;
    ForwardMemory<Marks> memory(head);
    memory.marks.begin(sizes, 0);
    pack_keys(sizes, head.k, sizes.padded_keys(), memory.keys);
    pack_rows(sizes, head.v, sizes.keys, sizes.kv_stride, 0, sizes.keys, 1, memory.values);
    for (std::int64_t query = 0; query < sizes.queries; query += tile_queries)
        attend(head, memory, query);
    for (std::int64_t time = 0; time < sizes.queries; time += simd::lanes) {
        const simd::Floats sum = logarithm_to_two(simd::load(memory.sums + time));
        store_part(head.log_sum_exp + time, (simd::load(memory.maxima + time) + sum) * ln_2, sizes.queries - time);
    }
}

} // namespace

TESSERA_MULTIVERSION void attention_head_f32(const ForwardHead<float>& head) { attend<NoMarks>(head); }
TESSERA_MULTIVERSION void attention_head_bf16(const ForwardHead<BFloat16>& head) { attend<NoMarks>(head); }
TESSERA_MULTIVERSION void attention_head_f16(const ForwardHead<Float16>& head) { attend<NoMarks>(head); }
TESSERA_MULTIVERSION void marked_head_f32(const ForwardHead<float>& head) { attend<PackedMarks>(head); }
TESSERA_MULTIVERSION void marked_head_bf16(const ForwardHead<BFloat16>& head) { attend<PackedMarks>(head); }
TESSERA_MULTIVERSION void marked_head_f16(const ForwardHead<Float16>& head) { attend<PackedMarks>(head); }

void attention_head(const ForwardHead<float>& head) {
    head.marks.any() ? marked_head_f32(head) : attention_head_f32(head);
}
void attention_head(const ForwardHead<BFloat16>& head) {
    head.marks.any() ? marked_head_bf16(head) : attention_head_bf16(head);
}
void attention_head(const ForwardHead<Float16>& head) {
    head.marks.any() ? marked_head_f16(head) : attention_head_f16(head);
}

} // namespace tessera::kernels
