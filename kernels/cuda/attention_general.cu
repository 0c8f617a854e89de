// SPDX-License-Identifier: Apache-2.0
// Attention with multiply-adds in fp32, for any D up to 256, either dtype and any alignment: forward by
// FlashAttention-2 (Dao 2023, algorithm 1), the gradient once for dq, by tiles of queries, and once for dk and dv, by
// tiles of keys, so that every sum has one writer and a fixed order.
#include "kernels/attention.hpp"
#include "kernels/cross_attention.hpp"
#include "kernels/cuda/attention_blocks.cuh"
#include "kernels/cuda/attention_variants.hpp"

namespace tessera::kernels {
namespace {

using blocks::Rows;

// What lies in one tensor has one address.
template <class T> struct ForwardOperands {
    const T *q, *kv;
    T* y;
    float* log_sum_exp;
};

template <class T> struct GradientOperands {
    const T *q, *kv, *dy;
    const float *log_sum_exp, *deltas;
    T *dq, *dkv;
    float* dbias; // null: none; else of each block of queries, at distance - 63 and on, distance_span(heads) numbers
};

__host__ __device__ constexpr int distance_span(int keys) {
    return (keys + blocks::size - 1) / blocks::size * blocks::size + blocks::size;
}

// A query that has seen no key yet: scores begin at this, so that their distance to the largest is a number.
constexpr float no_score = -1e30f;

// A score in units of log2, and whether it counts.
template <class Heads>
__device__ __forceinline__ float marked_score(const Heads& heads, int head, int query, int key, float score) {
    if constexpr (Heads::marked) return score + heads.bias_of(head, query, key);
    return score;
}
template <class Heads>
__device__ __forceinline__ bool in_segment(const Heads& heads, int head, int query, int key, bool seen) {
    if constexpr (Heads::marked) return seen && heads.same_segment(head, query, key);
    return seen;
}

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

template <class T, int quads, class Heads> __global__ void __launch_bounds__(blocks::threads, quads == 4 ? 1 : 2)
    forward_kernel(ForwardOperands<T> operands, Heads heads, int tiles) {
    TESSERA_SHARED(float, pieces, [blocks::piece_floats]);
    TESSERA_SHARED(float, weights, [blocks::weight_floats]);
    const int head = static_cast<int>(blockIdx.x) / tiles, kv_head = head / heads.group();
    const int query = (tiles - 1 - static_cast<int>(blockIdx.x) % tiles) * blocks::size; // the longest rows first
    const Rows<T> queries(operands.q + heads.q(head), heads.q_stride(), query, heads.queries(), heads.head_dim);
    float maximum[4], sum[4], factor[4];
    blocks::Sum<quads> output;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        maximum[i] = Heads::marked ? no_score : -INFINITY;
        sum[i] = 0;
    }
    blocks::clear<quads>(output);
    for (int key = 0; key < heads.end_key(query + blocks::size); key += blocks::size) {
        blocks::Scores scores;
        blocks::multiply_rows(
            scores, queries,
            Rows<T>(operands.kv + heads.k(kv_head), heads.kv_stride(), key, heads.keys(), heads.head_dim), pieces);
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const int row = query + blocks::score_row(i / 4), column = key + blocks::score_column(i % 4);
            const bool seen = in_segment(heads, head, row, column, column < heads.end_key(row + 1));
            float& score = scores[i / 4][i % 4];
            score = seen ? marked_score(heads, head, row, column, score * (heads.scale * log2_e)) : -INFINITY;
        }
        normalise(scores, maximum, sum, factor);
        blocks::store_weights(weights, scores);
        blocks::scale_rows<quads>(output, factor);
        blocks::add_weighted_rows<quads>(
            output, weights,
            Rows<T>(operands.kv + heads.v(kv_head), heads.kv_stride(), key, heads.keys(), heads.head_dim), pieces);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        factor[i] = Heads::marked && sum[i] == 0 ? 0 : 1 / sum[i];
        const int row = query + blocks::score_row(i);
        if (blocks::thread_x() == 0 && row < heads.queries())
            operands.log_sum_exp[heads.row(head) + row] = (maximum[i] + log2f(sum[i])) * ln_2;
    }
    blocks::scale_rows<quads>(output, factor);
    blocks::store_rows<quads>(operands.y + heads.y(head), heads.y_stride(), query, heads.queries(), heads.head_dim,
                              output, 1);
}

// p and scale-free ds of one score: p = 2^(scale log2(e) <q, k> - log2(denominator)), ds = p (dp - delta).
template <class Heads> __device__ __forceinline__ float probability(const Heads& heads, int head, int query, int key,
                                                                    float score, bool seen, float logarithm) {
    if (!in_segment(heads, head, query, key, seen)) return 0;
    return cuda::power_of_two(marked_score(heads, head, query, key, score * (heads.scale * log2_e)) -
                              logarithm * log2_e);
}

// A block's part of the bias's gradient: the sums along the diagonals of the weights, which all threads have stored.
__device__ __forceinline__ void add_diagonals(float* sums, const float* weights) {
    __syncthreads();
    const int diagonal = static_cast<int>(threadIdx.x) - (blocks::size - 1);
    if (diagonal >= blocks::size) return;
    float sum = 0;
    for (int row = diagonal < 0 ? -diagonal : 0; row < blocks::size && row + diagonal < blocks::size; ++row)
        sum += weights[row * blocks::weight_stride + row + diagonal];
    sums[threadIdx.x] += sum;
}

template <class T, int quads, class Heads> __global__ void __launch_bounds__(blocks::threads, quads == 4 ? 1 : 2)
    query_gradient_kernel(GradientOperands<T> operands, Heads heads, int tiles) {
    TESSERA_SHARED(float, pieces, [blocks::piece_floats]);
    TESSERA_SHARED(float, weights, [blocks::weight_floats]);
    const int head = static_cast<int>(blockIdx.x) / tiles, kv_head = head / heads.group();
    const int query = (tiles - 1 - static_cast<int>(blockIdx.x) % tiles) * blocks::size;
    const Rows<T> queries(operands.q + heads.q(head), heads.q_stride(), query, heads.queries(), heads.head_dim);
    const Rows<T> dy(operands.dy + heads.y(head), heads.y_stride(), query, heads.queries(), heads.head_dim);
    float* dbias = nullptr;
    if constexpr (Heads::marked)
        if (operands.dbias != nullptr) {
            const int span = distance_span(heads.keys());
            dbias = operands.dbias + (static_cast<std::int64_t>(head) * tiles + query / blocks::size) * span;
            for (int i = static_cast<int>(threadIdx.x); i < span; i += blocks::threads)
                dbias[i] = 0;
        }
    float logarithm[4], delta[4];
    blocks::Sum<quads> dq;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = query + blocks::score_row(i);
        logarithm[i] = row < heads.queries() ? operands.log_sum_exp[heads.row(head) + row] : INFINITY;
        delta[i] = row < heads.queries() ? operands.deltas[heads.row(head) + row] : 0;
    }
    blocks::clear<quads>(dq);
    for (int key = 0; key < heads.end_key(query + blocks::size); key += blocks::size) {
        const Rows<T> keys(operands.kv + heads.k(kv_head), heads.kv_stride(), key, heads.keys(), heads.head_dim);
        const Rows<T> values(operands.kv + heads.v(kv_head), heads.kv_stride(), key, heads.keys(), heads.head_dim);
        blocks::Scores scores, slopes;
        blocks::multiply_rows(scores, queries, keys, pieces);
        blocks::multiply_rows(slopes, dy, values, pieces);
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const int row = query + blocks::score_row(i / 4), column = key + blocks::score_column(i % 4);
            float& score = scores[i / 4][i % 4];
            score = probability(heads, head, row, column, score, column < heads.end_key(row + 1), logarithm[i / 4]) *
                    (slopes[i / 4][i % 4] - delta[i / 4]);
        }
        blocks::store_weights(weights, scores);
        if constexpr (Heads::marked)
            if (dbias != nullptr) add_diagonals(dbias + key, weights);
        blocks::add_weighted_rows<quads>(dq, weights, keys, pieces);
    }
    blocks::store_rows<quads>(operands.dq + heads.q(head), heads.q_stride(), query, heads.queries(), heads.head_dim, dq,
                              heads.scale);
}

template <class T, int quads, class Heads> __global__ void __launch_bounds__(blocks::threads, quads == 1 ? 2 : 1)
    key_gradient_kernel(GradientOperands<T> operands, Heads heads, int tiles) {
    TESSERA_SHARED(float, pieces, [blocks::piece_floats]);
    TESSERA_SHARED(float, weights, [blocks::weight_floats]);
    const int kv_head = static_cast<int>(blockIdx.x) / tiles;
    const int key = static_cast<int>(blockIdx.x) % tiles * blocks::size; // the keys that most queries see first
    const Rows<T> keys(operands.kv + heads.k(kv_head), heads.kv_stride(), key, heads.keys(), heads.head_dim);
    const Rows<T> values(operands.kv + heads.v(kv_head), heads.kv_stride(), key, heads.keys(), heads.head_dim);
    blocks::Sum<quads> dk, dv;
    blocks::clear<quads>(dk);
    blocks::clear<quads>(dv);
    for (int head = kv_head * heads.group(); head < (kv_head + 1) * heads.group(); ++head)
        for (int query = heads.causal ? key : 0; query < heads.queries(); query += blocks::size) {
            const Rows<T> queries(operands.q + heads.q(head), heads.q_stride(), query, heads.queries(), heads.head_dim);
            const Rows<T> dy(operands.dy + heads.y(head), heads.y_stride(), query, heads.queries(), heads.head_dim);
            blocks::Scores scores, slopes;
            blocks::multiply_rows(scores, keys, queries, pieces);
            float delta[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int column = query + blocks::score_column(j);
                const bool is = column < heads.queries();
                const float logarithm = is ? operands.log_sum_exp[heads.row(head) + column] : 0;
                delta[j] = is ? operands.deltas[heads.row(head) + column] : 0;
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int row = key + blocks::score_row(i);
                    const bool seen = is && (!heads.causal || row <= column);
                    scores[i][j] = probability(heads, head, column, row, scores[i][j], seen, logarithm);
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
    blocks::store_rows<quads>(operands.dkv + heads.k(kv_head), heads.kv_stride(), key, heads.keys(), heads.head_dim, dk,
                              heads.scale);
    blocks::store_rows<quads>(operands.dkv + heads.v(kv_head), heads.kv_stride(), key, heads.keys(), heads.head_dim, dv,
                              1);
}

// Calls work.template operator()<T, quads>() with 64 quads >= D.
// dbias[i, h] = the sum over sequences and blocks of queries of their sums at distance i - (T - 1).
__global__ void __launch_bounds__(blocks::threads)
    bias_gradient_kernel(const float* parts, float* dbias, CrossAttentionHeads heads, std::int64_t batch, int tiles) {
    const std::int64_t distances = static_cast<std::int64_t>(heads.queries()) + heads.keys() - 1;
    const std::int64_t element = static_cast<std::int64_t>(blockIdx.x) * blocks::threads + threadIdx.x;
    if (element >= heads.heads * distances) return;
    const std::int64_t head = element % heads.heads, distance = element / heads.heads - (heads.queries() - 1);
    const int span = distance_span(heads.keys());
    float sum = 0;
    for (std::int64_t sequence = 0; sequence < batch; ++sequence)
        for (int tile = 0; tile < tiles; ++tile) {
            const std::int64_t at = distance + tile * blocks::size + blocks::size - 1;
            if (at >= 0 && at < span) sum += parts[((sequence * heads.heads + head) * tiles + tile) * span + at];
        }
    dbias[element] = sum;
}

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
        const ForwardOperands<T> operands{cuda::pointer<T>(qkv), cuda::pointer<T>(qkv), cuda::pointer<T>(y),
                                          cuda::pointer<float>(log_sum_exp)};
        cuda::launch("attention", stream, forward_kernel<T, quads, AttentionHeads>,
                     cuda::blocks(tiles * shape.batch * shape.heads, 1), blocks::threads, 0, operands,
                     AttentionHeads(shape), tiles);
    });
}

void attention_gradient_general(CudaStream& stream, const AttentionShape& shape, ConstView qkv, ConstView dy,
                                ConstView log_sum_exp, ConstView deltas, View dqkv) {
    const std::int64_t tiles = cuda::divide_up(shape.tokens, blocks::size);
    with_variant(qkv.dtype, shape.head_dim, [&]<class T, int quads>() {
        const GradientOperands<T> operands{cuda::pointer<T>(qkv),        cuda::pointer<T>(qkv),
                                           cuda::pointer<T>(dy),         cuda::pointer<float>(log_sum_exp),
                                           cuda::pointer<float>(deltas), cuda::pointer<T>(dqkv),
                                           cuda::pointer<T>(dqkv),       nullptr};
        cuda::launch("attention_gradient", stream, query_gradient_kernel<T, quads, AttentionHeads>,
                     cuda::blocks(tiles * shape.batch * shape.heads, 1), blocks::threads, 0, operands,
                     AttentionHeads(shape), tiles);
        cuda::launch("attention_gradient", stream, key_gradient_kernel<T, quads, AttentionHeads>,
                     cuda::blocks(tiles * shape.batch * shape.kv_heads, 1), blocks::threads, 0, operands,
                     AttentionHeads(shape), tiles);
    });
}

void cross_attention_general(CudaStream& stream, const CrossAttentionShape& shape, const CrossAttentionInputs& in,
                             View y, View log_sum_exp) {
    const std::int64_t tiles = cuda::divide_up(shape.queries, blocks::size);
    with_variant(in.q.dtype, shape.head_dim, [&]<class T, int quads>() {
        const ForwardOperands<T> operands{cuda::pointer<T>(in.q), cuda::pointer<T>(shape.packed ? in.q : in.kv),
                                          cuda::pointer<T>(y), cuda::pointer<float>(log_sum_exp)};
        cuda::launch("cross_attention", stream, forward_kernel<T, quads, CrossAttentionHeads>,
                     cuda::blocks(tiles * shape.batch * shape.heads, 1), blocks::threads, 0, operands,
                     CrossAttentionHeads(shape, in), tiles);
    });
}

std::int64_t bias_gradient_count(const CrossAttentionShape& shape) {
    if (!shape.bias) return 0;
    return shape.batch * shape.heads * cuda::divide_up(shape.queries, blocks::size) *
           distance_span(static_cast<int>(shape.keys));
}

void cross_attention_gradient_general(CudaStream& stream, const CrossAttentionShape& shape,
                                      const CrossAttentionInputs& in, ConstView dy, ConstView log_sum_exp,
                                      ConstView deltas, const CrossAttentionGradients& out, View dbias) {
    const std::int64_t tiles = cuda::divide_up(shape.queries, blocks::size);
    const std::int64_t key_tiles = cuda::divide_up(shape.keys, blocks::size);
    with_variant(in.q.dtype, shape.head_dim, [&]<class T, int quads>() {
        const GradientOperands<T> operands{cuda::pointer<T>(in.q),
                                           cuda::pointer<T>(shape.packed ? in.q : in.kv),
                                           cuda::pointer<T>(dy),
                                           cuda::pointer<float>(log_sum_exp),
                                           cuda::pointer<float>(deltas),
                                           cuda::pointer<T>(out.q),
                                           cuda::pointer<T>(shape.packed ? out.q : out.kv),
                                           shape.bias ? cuda::pointer<float>(dbias) : nullptr};
        cuda::launch("cross_attention_gradient", stream, query_gradient_kernel<T, quads, CrossAttentionHeads>,
                     cuda::blocks(tiles * shape.batch * shape.heads, 1), blocks::threads, 0, operands,
                     CrossAttentionHeads(shape, in), tiles);
        cuda::launch("cross_attention_gradient", stream, key_gradient_kernel<T, quads, CrossAttentionHeads>,
                     cuda::blocks(key_tiles * shape.batch * shape.kv_heads, 1), blocks::threads, 0, operands,
                     CrossAttentionHeads(shape, in), key_tiles);
    });
    if (!shape.bias) return;
    cuda::launch("cross_attention_gradient", stream, bias_gradient_kernel,
                 cuda::blocks(shape.bias_count(), blocks::threads), blocks::threads, 0, cuda::pointer<float>(dbias),
                 cuda::pointer<float>(out.bias), CrossAttentionHeads(shape, in), shape.batch, tiles);
}

} // namespace tessera::kernels
