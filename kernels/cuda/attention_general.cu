// SPDX-License-Identifier: Apache-2.0
// Attention with multiply-adds in fp32, for any D up to 256, either dtype and any alignment: forward by
// FlashAttention-2 (Dao 2023, algorithm 1), the gradient once for dq, by tiles of queries, and once for dk and dv, by
// tiles of keys, so that every sum has one writer and a fixed order.
#include "kernels/attention.hpp"
#include "kernels/cuda/attention_blocks.cuh"
#include "kernels/cuda/attention_variants.hpp"

namespace tessera::kernels {
namespace {

using blocks::Rows;

template <class T> struct ForwardOperands {
    const T* qkv;
    T* y;
    float* log_sum_exp;
};

template <class T> struct GradientOperands {
    const T *qkv, *dy;
    const float *log_sum_exp, *deltas;
    T* dqkv;
};

// The sixteen threads that share rows.
template <class Operation> __device__ __forceinline__ float over_columns(float value, const Operation& operation) {
#pragma unroll
    for (int distance = 8; distance > 0; distance /= 2)
        value = operation(value, __shfl_xor_sync(cuda::all_lanes, value, distance));
    return value;
}

// Scores become powers of two of their distance to the largest so far; `factor` brings what was summed before to it.
// The first tile has a key that every query sees, so that the largest is finite from then on.
__device__ __forceinline__ void normalise(blocks::Scores& scores, float (&maximum)[4], float (&sum)[4],
                                          float (&factor)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        float largest = fmaxf(fmaxf(scores[i][0], scores[i][1]), fmaxf(scores[i][2], scores[i][3]));
        largest = over_columns(largest, [](float a, float b) { return fmaxf(a, b); });
        largest = fmaxf(maximum[i], largest);
        factor[i] = cuda::power_of_two(maximum[i] - largest);
        maximum[i] = largest;
        float part = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            scores[i][j] = cuda::power_of_two(scores[i][j] - largest);
            part += scores[i][j];
        }
        sum[i] = sum[i] * factor[i] + over_columns(part, [](float a, float b) { return a + b; });
    }
}

template <class T, int quads> __global__ void __launch_bounds__(blocks::threads, quads == 4 ? 1 : 2)
    forward_kernel(ForwardOperands<T> operands, AttentionHeads heads, int tiles) {
    TESSERA_SHARED(float, pieces, [blocks::piece_floats]);
    TESSERA_SHARED(float, weights, [blocks::weight_floats]);
    const int head = static_cast<int>(blockIdx.x) / tiles, kv_head = head / heads.group();
    const int query = (tiles - 1 - static_cast<int>(blockIdx.x) % tiles) * blocks::size; // the longest rows first
    const Rows<T> queries(operands.qkv + heads.q(head), heads.qkv_stride(), query, heads);
    float maximum[4], sum[4], factor[4];
    blocks::Sum<quads> output;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        maximum[i] = -INFINITY;
        sum[i] = 0;
    }
    blocks::clear<quads>(output);
    for (int key = 0; key < heads.end_key(query + blocks::size); key += blocks::size) {
        blocks::Scores scores;
        blocks::multiply_rows(scores, queries, Rows<T>(operands.qkv + heads.k(kv_head), heads.qkv_stride(), key, heads),
                              pieces);
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const int end = heads.end_key(query + blocks::score_row(i / 4) + 1);
            float& score = scores[i / 4][i % 4];
            score = key + blocks::score_column(i % 4) < end ? score * (heads.scale * log2_e) : -INFINITY;
        }
        normalise(scores, maximum, sum, factor);
        blocks::store_weights(weights, scores);
        blocks::scale_rows<quads>(output, factor);
        blocks::add_weighted_rows<quads>(
            output, weights, Rows<T>(operands.qkv + heads.v(kv_head), heads.qkv_stride(), key, heads), pieces);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        factor[i] = 1 / sum[i];
        const int row = query + blocks::score_row(i);
        if (blocks::thread_x() == 0 && row < heads.tokens)
            operands.log_sum_exp[heads.row(head) + row] = (maximum[i] + log2f(sum[i])) * ln_2;
    }
    blocks::scale_rows<quads>(output, factor);
    blocks::store_rows<quads>(operands.y + heads.y(head), heads.y_stride(), query, heads, output, 1);
}

// p and scale-free ds of one score: p = 2^(scale log2(e) <q, k> - log2(denominator)), ds = p (dp - delta).
__device__ __forceinline__ float probability(float score, bool seen, float scale, float logarithm) {
    return seen ? cuda::power_of_two(score * (scale * log2_e) - logarithm * log2_e) : 0;
}

template <class T, int quads> __global__ void __launch_bounds__(blocks::threads, quads == 4 ? 1 : 2)
    query_gradient_kernel(GradientOperands<T> operands, AttentionHeads heads, int tiles) {
    TESSERA_SHARED(float, pieces, [blocks::piece_floats]);
    TESSERA_SHARED(float, weights, [blocks::weight_floats]);
    const int head = static_cast<int>(blockIdx.x) / tiles, kv_head = head / heads.group();
    const int query = (tiles - 1 - static_cast<int>(blockIdx.x) % tiles) * blocks::size;
    const Rows<T> queries(operands.qkv + heads.q(head), heads.qkv_stride(), query, heads);
    const Rows<T> dy(operands.dy + heads.y(head), heads.y_stride(), query, heads);
    float logarithm[4], delta[4];
    blocks::Sum<quads> dq;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = query + blocks::score_row(i);
        logarithm[i] = row < heads.tokens ? operands.log_sum_exp[heads.row(head) + row] : INFINITY;
        delta[i] = row < heads.tokens ? operands.deltas[heads.row(head) + row] : 0;
    }
    blocks::clear<quads>(dq);
    for (int key = 0; key < heads.end_key(query + blocks::size); key += blocks::size) {
        const Rows<T> keys(operands.qkv + heads.k(kv_head), heads.qkv_stride(), key, heads);
        const Rows<T> values(operands.qkv + heads.v(kv_head), heads.qkv_stride(), key, heads);
        blocks::Scores scores, slopes;
        blocks::multiply_rows(scores, queries, keys, pieces);
        blocks::multiply_rows(slopes, dy, values, pieces);
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const int end = heads.end_key(query + blocks::score_row(i / 4) + 1);
            const bool seen = key + blocks::score_column(i % 4) < end;
            float& score = scores[i / 4][i % 4];
            score = probability(score, seen, heads.scale, logarithm[i / 4]) * (slopes[i / 4][i % 4] - delta[i / 4]);
        }
        blocks::store_weights(weights, scores);
        blocks::add_weighted_rows<quads>(dq, weights, keys, pieces);
    }
    blocks::store_rows<quads>(operands.dqkv + heads.q(head), heads.qkv_stride(), query, heads, dq, heads.scale);
}

template <class T, int quads> __global__ void __launch_bounds__(blocks::threads, quads == 1 ? 2 : 1)
    key_gradient_kernel(GradientOperands<T> operands, AttentionHeads heads, int tiles) {
    TESSERA_SHARED(float, pieces, [blocks::piece_floats]);
    TESSERA_SHARED(float, weights, [blocks::weight_floats]);
    const int kv_head = static_cast<int>(blockIdx.x) / tiles;
    const int key = static_cast<int>(blockIdx.x) % tiles * blocks::size; // the keys that most queries see first
    const Rows<T> keys(operands.qkv + heads.k(kv_head), heads.qkv_stride(), key, heads);
    const Rows<T> values(operands.qkv + heads.v(kv_head), heads.qkv_stride(), key, heads);
    blocks::Sum<quads> dk, dv;
    blocks::clear<quads>(dk);
    blocks::clear<quads>(dv);
    for (int head = kv_head * heads.group(); head < (kv_head + 1) * heads.group(); ++head)
        for (int query = heads.causal ? key : 0; query < heads.tokens; query += blocks::size) {
            const Rows<T> queries(operands.qkv + heads.q(head), heads.qkv_stride(), query, heads);
            const Rows<T> dy(operands.dy + heads.y(head), heads.y_stride(), query, heads);
            blocks::Scores scores, slopes;
            blocks::multiply_rows(scores, keys, queries, pieces);
            float delta[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int column = query + blocks::score_column(j);
                const bool is = column < heads.tokens;
                const float logarithm = is ? operands.log_sum_exp[heads.row(head) + column] : 0;
                delta[j] = is ? operands.deltas[heads.row(head) + column] : 0;
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const bool seen = is && (!heads.causal || key + blocks::score_row(i) <= column);
                    scores[i][j] = probability(scores[i][j], seen, heads.scale, logarithm);
                }
            }
            blocks::store_weights(weights, scores);
            blocks::add_weighted_rows<quads>(dv, weights, dy, pieces);
            blocks::multiply_rows(slopes, values, dy, pieces); // its barriers let the weights be written again
#pragma unroll
            for (int i = 0; i < 16; ++i)
                scores[i / 4][i % 4] *= slopes[i / 4][i % 4] - delta[i % 4];
            blocks::store_weights(weights, scores);
            blocks::add_weighted_rows<quads>(dk, weights, queries, pieces);
        }
    blocks::store_rows<quads>(operands.dqkv + heads.k(kv_head), heads.qkv_stride(), key, heads, dk, heads.scale);
    blocks::store_rows<quads>(operands.dqkv + heads.v(kv_head), heads.qkv_stride(), key, heads, dv, 1);
}

// Calls work.template operator()<T, quads>() with 64 quads >= D.
template <class Work> void with_variant(DType dtype, std::int64_t head_dim, const Work& work) {
    cuda::with_float_type("attention", dtype, [&]<class T>() {
        if (head_dim <= 64)
            work.template operator()<T, 1>();
        else if (head_dim <= 128)
            work.template operator()<T, 2>();
        else
            work.template operator()<T, 4>();
    });
}

} // namespace

void attention_general(CudaStream& stream, const AttentionShape& shape, ConstView qkv, View y, View log_sum_exp) {
    const std::int64_t tiles = cuda::divide_up(shape.tokens, blocks::size);
    with_variant(qkv.dtype, shape.head_dim, [&]<class T, int quads>() {
        const ForwardOperands<T> operands{cuda::pointer<T>(qkv), cuda::pointer<T>(y),
                                          cuda::pointer<float>(log_sum_exp)};
        cuda::launch("attention", stream, forward_kernel<T, quads>, cuda::blocks(tiles * shape.batch * shape.heads, 1),
                     blocks::threads, 0, operands, AttentionHeads(shape), tiles);
    });
}

void attention_gradient_general(CudaStream& stream, const AttentionShape& shape, ConstView qkv, ConstView dy,
                                ConstView log_sum_exp, ConstView deltas, View dqkv) {
    const std::int64_t tiles = cuda::divide_up(shape.tokens, blocks::size);
    with_variant(qkv.dtype, shape.head_dim, [&]<class T, int quads>() {
        const GradientOperands<T> operands{cuda::pointer<T>(qkv), cuda::pointer<T>(dy),
                                           cuda::pointer<float>(log_sum_exp), cuda::pointer<float>(deltas),
                                           cuda::pointer<T>(dqkv)};
        cuda::launch("attention_gradient", stream, query_gradient_kernel<T, quads>,
                     cuda::blocks(tiles * shape.batch * shape.heads, 1), blocks::threads, 0, operands,
                     AttentionHeads(shape), tiles);
        cuda::launch("attention_gradient", stream, key_gradient_kernel<T, quads>,
                     cuda::blocks(tiles * shape.batch * shape.kv_heads, 1), blocks::threads, 0, operands,
                     AttentionHeads(shape), tiles);
    });
}

} // namespace tessera::kernels
