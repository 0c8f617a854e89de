// SPDX-License-Identifier: Apache-2.0
// The gradient of attention on the tensor cores (Dao 2023, FlashAttention-2, algorithm 2) in two kernels: one for dq,
// whose blocks keep queries and go through the keys, and one for dk and dv, whose blocks keep keys and go through the
// queries of their group. The scores are found in both, seven products in place of five, and in return each sum has one
// writer and a fixed order, and p and ds go from one product to the next in registers. What goes through has two tiles.
// In f16 ds / scale is infinite above 65504, and so are its gradients, or not numbers: the loss scale is too large
// then, and the step is skipped, as where any other gradient of f16 overflows.
#include "kernels/attention.hpp"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/attention_variants.hpp"

namespace tessera::kernels {
namespace {

// D as the kernel sees it, and its cut: rows that a block keeps, and rows that go through.
template <int depth_, int warps_, int row_tiles_, int columns_> struct GradientCut {
    static constexpr int depth = depth_, warps = warps_, row_tiles = row_tiles_, columns = columns_;
    static constexpr int threads = 32 * warps, warp_rows = 16 * row_tiles, rows = warps * warp_rows;
    static constexpr int row_elements = rows * depth, column_elements = columns * depth;
    static constexpr std::size_t shared_bytes =
        2 * (2 * row_elements + 4 * column_elements) + 4 * sizeof(float) * columns;
};

template <class T> struct Operands {
    const T *qkv, *dy;
    const float *log_sum_exp, *deltas;
    T* dqkv;
};

template <class T, class Cut> __global__ void __launch_bounds__(Cut::threads)
    query_gradient_kernel(Operands<T> operands, AttentionHeads heads, int query_tiles) {
    constexpr int depth = Cut::depth, threads = Cut::threads, row_tiles = Cut::row_tiles,
                  column_tiles = Cut::columns / 8;
    TESSERA_DYNAMIC_SHARED(T, queries);
    T* const dy = queries + Cut::row_elements;
    T* const passing = dy + Cut::row_elements; // keys and values, twice
    const int head = static_cast<int>(blockIdx.x) / query_tiles, kv_head = head / heads.group();
    const int tile = query_tiles - 1 - static_cast<int>(blockIdx.x) % query_tiles; // the longest rows first
    const int query = tile * Cut::rows, warp_query = query + tiles::warp() * Cut::warp_rows;
    const int end = heads.end_key(query + Cut::rows);
    const int warp_end = warp_query < heads.tokens ? heads.end_key(warp_query + Cut::warp_rows) : 0;
    const float scale = heads.scale * log2_e;
    const auto rows = [&](const T* of_head, std::int64_t stride, int token) {
        return tiles::Rows<const T>(of_head, stride, token, heads);
    };
    const auto fetch = [&](int key) {
        T* const to = passing + key / Cut::columns % 2 * (2 * Cut::column_elements);
        tiles::copy_tile<depth, Cut::columns, threads>(to,
                                                       rows(operands.qkv + heads.k(kv_head), heads.qkv_stride(), key));
        tiles::copy_tile<depth, Cut::columns, threads>(to + Cut::column_elements,
                                                       rows(operands.qkv + heads.v(kv_head), heads.qkv_stride(), key));
        cuda::end_copy_group();
    };
    tiles::copy_tile<depth, Cut::rows, threads>(queries, rows(operands.qkv + heads.q(head), heads.qkv_stride(), query));
    tiles::copy_tile<depth, Cut::rows, threads>(dy, rows(operands.dy + heads.y(head), heads.y_stride(), query));
    fetch(0);
    T* const warp_queries = queries + tiles::warp() * Cut::warp_rows * depth;
    T* const warp_dy = dy + tiles::warp() * Cut::warp_rows * depth;
    float logarithm[row_tiles][2], delta[row_tiles][2];
#pragma unroll
    for (int r = 0; r < row_tiles; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = warp_query + tiles::element_row(r, 2 * half) + tiles::lane_row();
            const bool is = row < heads.tokens;
            logarithm[r][half] = is ? operands.log_sum_exp[heads.row(head) + row] * log2_e : INFINITY;
            delta[r][half] = is ? operands.deltas[heads.row(head) + row] : 0;
        }

    tiles::Sum<row_tiles, depth / 8> dq;
    tiles::clear(dq);
    for (int key = 0; key < end; key += Cut::columns) {
        cuda::wait_for_copies<0>();
        __syncthreads(); // this tile is there, and nobody reads the one before
        if (key + Cut::columns < end) fetch(key + Cut::columns);
        if (key >= warp_end) continue;
        const T* const keys = passing + key / Cut::columns % 2 * (2 * Cut::column_elements);
        tiles::Sum<row_tiles, column_tiles> score, slope;
        tiles::clear(score);
        tiles::clear(slope);
        tiles::multiply_rows<depth>(score, warp_queries, keys);
        tiles::multiply_rows<depth>(slope, warp_dy, keys + Cut::column_elements);
        if (key + Cut::columns > heads.end_key(warp_query + 1)) tiles::mask(score, heads, warp_query, key);
#pragma unroll
        for (int r = 0; r < row_tiles; ++r)
#pragma unroll
            for (int c = 0; c < column_tiles; ++c)
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    score[r][c][i] = cuda::power_of_two(score[r][c][i] * scale - logarithm[r][i / 2]) *
                                     (slope[r][c][i] - delta[r][i / 2]);
        tiles::Left ds[row_tiles][Cut::columns / 16];
        tiles::as_left<T>(ds, score);
        tiles::multiply<depth>(dq, ds, keys);
    }
    tiles::store_rows<depth>(tiles::Rows<T>(operands.dqkv + heads.q(head), heads.qkv_stride(), warp_query, heads),
                             warp_queries, dq, heads.scale);
}

// p = 2^(scale score - logarithm of the query), 0 where the query does not see the key: rows are keys, from `key` on,
// columns queries, from `query` on. Beyond the last query the logarithm is infinite.
template <int row_tiles, int column_tiles>
__device__ __forceinline__ void find_probabilities(tiles::Sum<row_tiles, column_tiles>& score, float scale,
                                                   const float* logarithms, bool causal, int key, int query) {
    const int first =
        causal ? key - query + tiles::lane_row() - tiles::lane_column() : -column_tiles * 8 - row_tiles * 16;
#pragma unroll
    for (int c = 0; c < column_tiles; ++c) {
        const float2 logarithm = *reinterpret_cast<const float2*>(logarithms + 8 * c + tiles::lane_column());
#pragma unroll
        for (int r = 0; r < row_tiles; ++r)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float p = cuda::power_of_two(score[r][c][i] * scale - (i % 2 == 0 ? logarithm.x : logarithm.y));
                score[r][c][i] = tiles::element_column(c, i) - tiles::element_row(r, i) < first ? 0 : p;
            }
    }
}

// ds / scale = p (dp - delta of the query)
template <int row_tiles, int column_tiles>
__device__ __forceinline__ void find_slopes(tiles::Sum<row_tiles, column_tiles>& p,
                                            const tiles::Sum<row_tiles, column_tiles>& dp, const float* deltas) {
#pragma unroll
    for (int c = 0; c < column_tiles; ++c) {
        const float2 delta = *reinterpret_cast<const float2*>(deltas + 8 * c + tiles::lane_column());
#pragma unroll
        for (int r = 0; r < row_tiles; ++r)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                p[r][c][i] *= dp[r][c][i] - (i % 2 == 0 ? delta.x : delta.y);
    }
}

template <class T, class Cut> __global__ void __launch_bounds__(Cut::threads)
    key_gradient_kernel(Operands<T> operands, AttentionHeads heads, int key_tiles) {
    constexpr int depth = Cut::depth, threads = Cut::threads, row_tiles = Cut::row_tiles,
                  column_tiles = Cut::columns / 8;
    static_assert(2 * Cut::columns <= threads);
    TESSERA_DYNAMIC_SHARED(T, keys);
    T* const values = keys + Cut::row_elements;
    T* const passing = values + Cut::row_elements;                                          // queries and dy, twice
    float* const statistics = reinterpret_cast<float*>(passing + 4 * Cut::column_elements); // logarithms, deltas, twice
    const int kv_head = static_cast<int>(blockIdx.x) / key_tiles;
    const int key = static_cast<int>(blockIdx.x) % key_tiles * Cut::rows; // the keys that most queries see first
    const int warp_key = key + tiles::warp() * Cut::warp_rows;
    const float scale = heads.scale * log2_e;
    const int first_query = heads.causal ? key / Cut::columns * Cut::columns : 0;
    const int end_head = (kv_head + 1) * heads.group();
    const auto advance = [&](int& head, int& query) {
        query += Cut::columns;
        if (query >= heads.tokens) query = first_query, ++head;
    };
    const auto rows = [&](const T* of_head, std::int64_t stride, int token) {
        return tiles::Rows<const T>(of_head, stride, token, heads);
    };
    const auto fetch = [&](int stage, int head, int query) {
        T* const to = passing + stage * (2 * Cut::column_elements);
        tiles::copy_tile<depth, Cut::columns, threads>(to,
                                                       rows(operands.qkv + heads.q(head), heads.qkv_stride(), query));
        tiles::copy_tile<depth, Cut::columns, threads>(to + Cut::column_elements,
                                                       rows(operands.dy + heads.y(head), heads.y_stride(), query));
        cuda::end_copy_group();
    };
    const int thread = static_cast<int>(threadIdx.x);
    const auto statistic = [&](int head, int query) { // one of each of the first threads
        const bool logarithm = thread < Cut::columns;
        const int row = query + thread % Cut::columns;
        if (thread >= 2 * Cut::columns || row >= heads.tokens) return logarithm ? INFINITY : 0;
        const std::int64_t at = heads.row(head) + row;
        return logarithm ? operands.log_sum_exp[at] * log2_e : operands.deltas[at];
    };
    tiles::copy_tile<depth, Cut::rows, threads>(keys, rows(operands.qkv + heads.k(kv_head), heads.qkv_stride(), key));
    tiles::copy_tile<depth, Cut::rows, threads>(values, rows(operands.qkv + heads.v(kv_head), heads.qkv_stride(), key));
    int head = kv_head * heads.group(), query = first_query;
    fetch(0, head, query);
    if (thread < 2 * Cut::columns) statistics[thread] = statistic(head, query);
    T* const warp_keys = keys + tiles::warp() * Cut::warp_rows * depth;
    T* const warp_values = values + tiles::warp() * Cut::warp_rows * depth;

    tiles::Sum<row_tiles, depth / 8> dk, dv;
    tiles::clear(dk);
    tiles::clear(dv);
    for (int stage = 0; head < end_head; stage ^= 1) {
        cuda::wait_for_copies<0>();
        __syncthreads(); // this tile is there, and nobody reads the one before
        int next_head = head, next_query = query;
        advance(next_head, next_query);
        const bool more = next_head < end_head;
        if (more) fetch(stage ^ 1, next_head, next_query);
        const float next = more ? statistic(next_head, next_query) : 0; // on its way during the products
        if (warp_key < heads.tokens && (!heads.causal || query + Cut::columns > warp_key)) {
            const T* const queries = passing + stage * (2 * Cut::column_elements);
            const T* const dy = queries + Cut::column_elements;
            const float* const logarithms = statistics + stage * (2 * Cut::columns);
            tiles::Sum<row_tiles, column_tiles> p, dp;
            tiles::clear(p);
            tiles::multiply_rows<depth>(p, warp_keys, queries);
            find_probabilities(p, scale, logarithms, heads.causal, warp_key, query);
            tiles::Left left[row_tiles][Cut::columns / 16];
            tiles::as_left<T>(left, p);
            tiles::multiply<depth>(dv, left, dy);
            tiles::clear(dp);
            tiles::multiply_rows<depth>(dp, warp_values, dy);
            find_slopes(p, dp, logarithms + Cut::columns);
            tiles::as_left<T>(left, p);
            tiles::multiply<depth>(dk, left, queries);
        }
        if (more && thread < 2 * Cut::columns) statistics[(stage ^ 1) * (2 * Cut::columns) + thread] = next;
        head = next_head;
        query = next_query;
    }
    tiles::store_rows<depth>(tiles::Rows<T>(operands.dqkv + heads.k(kv_head), heads.qkv_stride(), warp_key, heads),
                             warp_keys, dk, heads.scale);
    tiles::store_rows<depth>(tiles::Rows<T>(operands.dqkv + heads.v(kv_head), heads.qkv_stride(), warp_key, heads),
                             warp_values, dv, 1);
}

template <class T, class QueryCut, class KeyCut>
void launch_gradient(CudaStream& stream, const AttentionShape& shape, const Operands<T>& operands) {
    const std::int64_t query_tiles = cuda::divide_up(shape.tokens, QueryCut::rows);
    const std::int64_t key_tiles = cuda::divide_up(shape.tokens, KeyCut::rows);
    cuda::allow_shared_bytes(query_gradient_kernel<T, QueryCut>, QueryCut::shared_bytes);
    cuda::launch("attention_gradient", stream, query_gradient_kernel<T, QueryCut>,
                 cuda::blocks(query_tiles * shape.batch * shape.heads, 1), QueryCut::threads, QueryCut::shared_bytes,
                 operands, AttentionHeads(shape), query_tiles);
    cuda::allow_shared_bytes(key_gradient_kernel<T, KeyCut>, KeyCut::shared_bytes);
    cuda::launch("attention_gradient", stream, key_gradient_kernel<T, KeyCut>,
                 cuda::blocks(key_tiles * shape.batch * shape.kv_heads, 1), KeyCut::threads, KeyCut::shared_bytes,
                 operands, AttentionHeads(shape), key_tiles);
}

template <class T> void choose_cuts(CudaStream& stream, const AttentionShape& shape, const ConstView& qkv,
                                    const ConstView& dy, const ConstView& log_sum_exp, const ConstView& deltas,
                                    const View& dqkv) {
    const Operands<T> operands{cuda::pointer<T>(qkv), cuda::pointer<T>(dy), cuda::pointer<float>(log_sum_exp),
                               cuda::pointer<float>(deltas), cuda::pointer<T>(dqkv)};
    if (shape.head_dim <= 32)
        launch_gradient<T, GradientCut<32, 4, 2, 64>, GradientCut<32, 4, 2, 64>>(stream, shape, operands);
    else if (shape.head_dim <= 64)
        launch_gradient<T, GradientCut<64, 4, 2, 64>, GradientCut<64, 4, 2, 32>>(stream, shape, operands);
    else if (shape.head_dim <= 96)
        launch_gradient<T, GradientCut<96, 4, 2, 32>, GradientCut<96, 8, 1, 64>>(stream, shape, operands);
    else
        launch_gradient<T, GradientCut<128, 4, 2, 32>, GradientCut<128, 8, 1, 32>>(stream, shape, operands);
}

} // namespace

void attention_gradient_on_tensor_cores(CudaStream& stream, const AttentionShape& shape, ConstView qkv, ConstView dy,
                                        ConstView log_sum_exp, ConstView deltas, View dqkv) {
    if (qkv.dtype == DType::f16)
        choose_cuts<__half>(stream, shape, qkv, dy, log_sum_exp, deltas, dqkv);
    else
        choose_cuts<__nv_bfloat16>(stream, shape, qkv, dy, log_sum_exp, deltas, dqkv);
}

} // namespace tessera::kernels
