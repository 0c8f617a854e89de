// SPDX-License-Identifier: Apache-2.0
// The two products of which the general attention kernels are made, by a block of 16 x 16 threads on 64 x 64 scores:
// rows times rows, and weights times rows. fp32, any number of columns; shared memory holds pieces that do not depend
// on D.
#pragma once

#include "kernels/cuda/attention_heads.cuh"

namespace tessera::kernels::blocks {

constexpr int threads = 256;
constexpr int size = 64;                // rows and columns of scores
constexpr int chunk = 32;               // columns of rows that are multiplied at a time
constexpr int chunk_stride = chunk + 4; // so that eight rows' float4 lie in different banks
constexpr int step = 16;                // rows that are weighed at a time
constexpr int weight_stride = size + 4; // likewise
constexpr int piece_floats = 2 * size * chunk_stride;
constexpr int weight_floats = size * weight_stride;
static_assert(step * 256 <= piece_floats);

// A thread's part of the scores: rows 4 y + i, columns x + 16 j.
using Scores = float[4][4];
__device__ __forceinline__ int thread_x() { return static_cast<int>(threadIdx.x % 16); }
__device__ __forceinline__ int thread_y() { return static_cast<int>(threadIdx.x / 16); }
__device__ __forceinline__ int score_row(int i) { return 4 * thread_y() + i; }
__device__ __forceinline__ int score_column(int j) { return thread_x() + 16 * j; }

// Rows of a head from some token on, of `tokens`; beyond them and beyond D there are zeros.
template <class T> struct Rows {
    const T* first;
    std::int64_t stride;
    int count, head_dim;

    __device__ Rows(const T* of_head, std::int64_t stride_, int token, int tokens, int head_dim_)
        : first(of_head + token * stride_), stride(stride_), count(tokens - token), head_dim(head_dim_) {}
};

template <int rows, int columns, int to_stride, class T>
__device__ __forceinline__ void copy(float* to, const Rows<T>& from, int first_row, int first_column) {
    constexpr int passes = rows * columns / threads, pass_rows = threads / columns;
    const int row = static_cast<int>(threadIdx.x / columns), column = static_cast<int>(threadIdx.x % columns);
    const T* at = from.first + (first_row + row) * from.stride + first_column + column;
    const int count = first_column + column < from.head_dim ? from.count - first_row - row : 0;
#pragma unroll 4
    for (int i = 0; i < passes; ++i)
        to[(i * pass_rows + row) * to_stride + column] =
            i * pass_rows < count ? cuda::to_float(at[i * pass_rows * from.stride]) : 0;
}

// scores = <row of a, row of b>. All threads leave it only when nobody reads `weights` any more, if anyone did.
template <class T>
__device__ __forceinline__ void multiply_rows(Scores& scores, const Rows<T>& a, const Rows<T>& b, float* pieces) {
    float* left = pieces;
    float* right = pieces + size * chunk_stride;
#pragma unroll
    for (int i = 0; i < 16; ++i)
        scores[i / 4][i % 4] = 0;
#pragma unroll 1
    for (int column = 0; column < a.head_dim; column += chunk) {
        __syncthreads(); // whoever still reads the pieces
        copy<size, chunk, chunk_stride>(left, a, 0, column);
        copy<size, chunk, chunk_stride>(right, b, 0, column);
        __syncthreads();
#pragma unroll 1
        for (int d = 0; d < chunk; d += 4) {
            float4 l[4], r[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                l[i] = *reinterpret_cast<const float4*>(left + score_row(i) * chunk_stride + d);
                r[i] = *reinterpret_cast<const float4*>(right + score_column(i) * chunk_stride + d);
            }
#pragma unroll
            for (int i = 0; i < 16; ++i) {
                const float4 x = l[i / 4], y = r[i % 4];
                float& sum = scores[i / 4][i % 4];
                sum += x.x * y.x;
                sum += x.y * y.y;
                sum += x.z * y.z;
                sum += x.w * y.w;
            }
        }
    }
}

// A thread's part of a (64, D) sum: rows 4 y + i, columns 4 x + 64 j + c; D <= 64 quads.
template <int quads> using Sum = float[4][quads][4];

__device__ __forceinline__ void store_weights(float* weights, const Scores& scores) {
#pragma unroll
    for (int i = 0; i < 16; ++i)
        weights[score_row(i / 4) * weight_stride + score_column(i % 4)] = scores[i / 4][i % 4];
}

// sum += weights times rows. Begins with a barrier: whoever wrote the weights has done so.
template <int quads, class T> __device__ __forceinline__ void add_weighted_rows(Sum<quads>& sum, const float* weights,
                                                                                const Rows<T>& rows, float* pieces) {
    constexpr int columns = 64 * quads;
#pragma unroll 1
    for (int first = 0; first < size; first += step) {
        __syncthreads(); // whoever still reads the pieces or writes the weights
        copy<step, columns, columns>(pieces, rows, first, 0);
        __syncthreads();
#pragma unroll 1
        for (int row = 0; row < step; row += 4) {
            float4 weight[4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                weight[i] = *reinterpret_cast<const float4*>(weights + score_row(i) * weight_stride + first + row);
#pragma unroll
            for (int k = 0; k < 4; ++k)
#pragma unroll
                for (int j = 0; j < quads; ++j) {
                    const float4 value =
                        *reinterpret_cast<const float4*>(pieces + (row + k) * columns + 4 * thread_x() + 64 * j);
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        const float w = k == 0   ? weight[i].x
                                        : k == 1 ? weight[i].y
                                        : k == 2 ? weight[i].z
                                                 : weight[i].w;
                        sum[i][j][0] += w * value.x;
                        sum[i][j][1] += w * value.y;
                        sum[i][j][2] += w * value.z;
                        sum[i][j][3] += w * value.w;
                    }
                }
        }
    }
}

// Row i of the sum times factor[i].
template <int quads> __device__ __forceinline__ void scale_rows(Sum<quads>& sum, const float (&factor)[4]) {
#pragma unroll
    for (int i = 0; i < 16 * quads; ++i)
        sum[i / (4 * quads)][i / 4 % quads][i % 4] *= factor[i / (4 * quads)];
}

template <int quads> __device__ __forceinline__ void clear(Sum<quads>& sum) {
#pragma unroll
    for (int i = 0; i < 16 * quads; ++i)
        sum[i / (4 * quads)][i / 4 % quads][i % 4] = 0;
}

// Rows [token, token + 64) of a head, as far as there are such below `tokens`.
template <int quads, class T> __device__ __forceinline__ void
store_rows(T* of_head, std::int64_t stride, int token, int tokens, int head_dim, const Sum<quads>& sum, float factor) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = token + score_row(i);
        if (row >= tokens) continue;
#pragma unroll
        for (int j = 0; j < quads * 4; ++j) {
            const int column = 4 * thread_x() + 64 * (j / 4) + j % 4;
            if (column < head_dim) of_head[row * stride + column] = cuda::from_float<T>(factor * sum[i][j / 4][j % 4]);
        }
    }
}

} // namespace tessera::kernels::blocks
