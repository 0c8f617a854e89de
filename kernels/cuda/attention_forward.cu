// SPDX-License-Identifier: Apache-2.0
// Attention on the tensor cores, forward (Dao 2023, FlashAttention-2, algorithm 1): a block keeps a tile of queries,
// its warps 16 or 32 rows each, and goes through the keys; scores, running softmax and sums stay in registers. Keys and
// values have one tile each: the next values come while scores are found, the next keys while they are weighed.
#include "kernels/attention.hpp"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/attention_variants.hpp"

namespace tessera::kernels {
namespace {

// D as the kernel sees it, and its cut.
template <int depth_, int warps_, int row_tiles_, int keys_> struct ForwardCut {
    static constexpr int depth = depth_, warps = warps_, row_tiles = row_tiles_, keys = keys_;
    static constexpr int threads = 32 * warps, warp_queries = 16 * row_tiles, queries = warps * warp_queries;
    static constexpr std::size_t shared_bytes = 2 * depth * (queries + 2 * keys);
};

template <class T> struct Operands {
    const T* qkv;
    T* y;
    float* log_sum_exp;
};

// Of each row of a warp, two of which a lane holds per row tile. `sum` is that of the lane's own columns.
template <int row_tiles> struct Softmax {
    float maximum[row_tiles][2], sum[row_tiles][2];

    __device__ Softmax() {
#pragma unroll
        for (int r = 0; r < row_tiles; ++r)
            maximum[r][0] = maximum[r][1] = -INFINITY, sum[r][0] = sum[r][1] = 0;
    }
};

// Scores become 2^(scale (score - the row's largest so far)), and what was summed before is brought to that largest.
// Every query sees key 0, so that the largest is finite from the first tile on.
template <int row_tiles, int key_tiles, int depth_tiles>
__device__ __forceinline__ void normalise(tiles::Sum<row_tiles, key_tiles>& score, Softmax<row_tiles>& softmax,
                                          tiles::Sum<row_tiles, depth_tiles>& output, float scale) {
#pragma unroll
    for (int r = 0; r < row_tiles; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float largest = softmax.maximum[r][half];
#pragma unroll
            for (int c = 0; c < key_tiles; ++c)
                largest = fmaxf(largest, fmaxf(score[r][c][2 * half], score[r][c][2 * half + 1]));
            largest = fmaxf(largest, __shfl_xor_sync(cuda::all_lanes, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(cuda::all_lanes, largest, 2));
            const float factor = cuda::power_of_two((softmax.maximum[r][half] - largest) * scale);
            const float scaled_largest = largest * scale;
            softmax.maximum[r][half] = largest;
            float sum = softmax.sum[r][half] * factor;
#pragma unroll
            for (int c = 0; c < key_tiles; ++c)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    score[r][c][i] = cuda::power_of_two(score[r][c][i] * scale - scaled_largest);
                    sum += score[r][c][i];
                }
            softmax.sum[r][half] = sum;
#pragma unroll
            for (int c = 0; c < depth_tiles; ++c)
                output[r][c][2 * half] *= factor, output[r][c][2 * half + 1] *= factor;
        }
}

// Divides by the sums and writes the logarithms: log(sum_s e^s) = log(2) (largest + log2(sum)).
template <int row_tiles, int depth_tiles>
__device__ __forceinline__ void finish(tiles::Sum<row_tiles, depth_tiles>& output, const Softmax<row_tiles>& softmax,
                                       float scale, float* log_sum_exp, int row_count) {
#pragma unroll
    for (int r = 0; r < row_tiles; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float sum = softmax.sum[r][half];
            sum += __shfl_xor_sync(cuda::all_lanes, sum, 1);
            sum += __shfl_xor_sync(cuda::all_lanes, sum, 2);
            const int row = tiles::element_row(r, 2 * half) + tiles::lane_row();
            if (tiles::lane() % 4 == 0 && row < row_count)
                log_sum_exp[row] = (softmax.maximum[r][half] * scale + log2f(sum)) * ln_2;
            const float share = 1 / sum;
#pragma unroll
            for (int c = 0; c < depth_tiles; ++c)
                output[r][c][2 * half] *= share, output[r][c][2 * half + 1] *= share;
        }
}

template <class T, class Cut> __global__ void __launch_bounds__(Cut::threads)
    forward_kernel(Operands<T> operands, AttentionHeads heads, int query_tiles) {
    constexpr int depth = Cut::depth, threads = Cut::threads;
    TESSERA_DYNAMIC_SHARED(T, queries);
    T* const keys = queries + Cut::queries * depth;
    T* const values = keys + Cut::keys * depth;
    const int head = static_cast<int>(blockIdx.x) / query_tiles, kv_head = head / heads.group();
    const int tile = query_tiles - 1 - static_cast<int>(blockIdx.x) % query_tiles; // the longest rows first
    const int query = tile * Cut::queries, warp_query = query + tiles::warp() * Cut::warp_queries;
    const int end = heads.end_key(query + Cut::queries);
    const int warp_end = warp_query < heads.tokens ? heads.end_key(warp_query + Cut::warp_queries) : 0;
    const float scale = heads.scale * log2_e;
    const auto rows = [&](std::int64_t at, int token) {
        return tiles::Rows<const T>(operands.qkv + at, heads.qkv_stride(), token, heads);
    };
    tiles::copy_tile<depth, Cut::queries, threads>(queries, rows(heads.q(head), query));
    tiles::copy_tile<depth, Cut::keys, threads>(keys, rows(heads.k(kv_head), 0));
    cuda::end_copy_group();
    T* const warp_queries = queries + tiles::warp() * Cut::warp_queries * depth;

    tiles::Sum<Cut::row_tiles, depth / 8> output;
    tiles::clear(output);
    Softmax<Cut::row_tiles> softmax;
    for (int key = 0; key < end; key += Cut::keys) {
        cuda::wait_for_copies<0>();
        __syncthreads(); // the keys are there, and nobody reads the values before
        tiles::copy_tile<depth, Cut::keys, threads>(values, rows(heads.v(kv_head), key));
        cuda::end_copy_group();
        const bool seen = key < warp_end;
        tiles::Sum<Cut::row_tiles, Cut::keys / 8> score;
        tiles::clear(score);
        if (seen) tiles::multiply_rows<depth>(score, warp_queries, keys);
        cuda::wait_for_copies<0>();
        __syncthreads(); // the values are there, and nobody reads these keys any more
        if (key + Cut::keys < end)
            tiles::copy_tile<depth, Cut::keys, threads>(keys, rows(heads.k(kv_head), key + Cut::keys));
        cuda::end_copy_group();
        if (!seen) continue;
        if (key + Cut::keys > heads.end_key(warp_query + 1)) tiles::mask(score, heads, warp_query, key);
        normalise(score, softmax, output, scale);
        tiles::Left shares[Cut::row_tiles][Cut::keys / 16];
        tiles::as_left<T>(shares, score);
        tiles::multiply<depth>(output, shares, values);
    }
    finish(output, softmax, scale, operands.log_sum_exp + heads.row(head) + warp_query, heads.tokens - warp_query);
    tiles::store_rows<depth>(tiles::Rows<T>(operands.y + heads.y(head), heads.y_stride(), warp_query, heads),
                             warp_queries, output, 1);
}

template <class T, class Cut> void launch_forward(CudaStream& stream, const AttentionShape& shape, const ConstView& qkv,
                                                  const View& y, const View& log_sum_exp) {
    const std::int64_t query_tiles = cuda::divide_up(shape.tokens, Cut::queries);
    const Operands<T> operands{cuda::pointer<T>(qkv), cuda::pointer<T>(y), cuda::pointer<float>(log_sum_exp)};
    cuda::allow_shared_bytes(forward_kernel<T, Cut>, Cut::shared_bytes);
    cuda::launch("attention", stream, forward_kernel<T, Cut>, cuda::blocks(query_tiles * shape.batch * shape.heads, 1),
                 Cut::threads, Cut::shared_bytes, operands, AttentionHeads(shape), query_tiles);
}

template <class T> void choose_cut(CudaStream& stream, const AttentionShape& shape, const ConstView& qkv, const View& y,
                                   const View& log_sum_exp) {
    if (shape.head_dim <= 32)
        launch_forward<T, ForwardCut<32, 4, 2, 64>>(stream, shape, qkv, y, log_sum_exp);
    else if (shape.head_dim <= 64)
        launch_forward<T, ForwardCut<64, 4, 2, 64>>(stream, shape, qkv, y, log_sum_exp);
    else if (shape.head_dim <= 96)
        launch_forward<T, ForwardCut<96, 4, 2, 64>>(stream, shape, qkv, y, log_sum_exp);
    else
        launch_forward<T, ForwardCut<128, 4, 2, 64>>(stream, shape, qkv, y, log_sum_exp);
}

} // namespace

void attention_on_tensor_cores(CudaStream& stream, const AttentionShape& shape, ConstView qkv, View y,
                               View log_sum_exp) {
    if (qkv.dtype == DType::f16)
        choose_cut<__half>(stream, shape, qkv, y, log_sum_exp);
    else
        choose_cut<__nv_bfloat16>(stream, shape, qkv, y, log_sum_exp);
}

} // namespace tessera::kernels
