// SPDX-License-Identifier: Apache-2.0
// Tiles of 16-bit rows in shared memory and their products on the tensor cores, for the attention kernels: a warp owns
// rows of the left factor and of the sum, in registers, as the fragments of mma.m16n8k16 (PTX ISA): of a 16 x 8 sum,
// lane l holds rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next.
#pragma once

#include "kernels/cuda/attention_heads.cuh"

namespace tessera::kernels::tiles {

constexpr int piece = 8; // elements that are copied at once, 16 bytes: a row of ldmatrix

__device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x % 32); }
__device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x / 32); }

// A warp's sum of 16 row_tiles rows and 8 column_tiles columns.
template <int row_tiles, int column_tiles> using Sum = float[row_tiles][column_tiles][4];

// Where element i of a lane's part of a sum lies: that of lane 0, and what the lane adds to it.
__device__ __forceinline__ constexpr int element_row(int row_tile, int i) { return 16 * row_tile + i / 2 * 8; }
__device__ __forceinline__ constexpr int element_column(int column_tile, int i) { return 8 * column_tile + i % 2; }
__device__ __forceinline__ int lane_row() { return lane() / 4; }
__device__ __forceinline__ int lane_column() { return lane() % 4 * 2; }

template <int row_tiles, int column_tiles> __device__ __forceinline__ void clear(Sum<row_tiles, column_tiles>& sum) {
#pragma unroll
    for (int r = 0; r < row_tiles; ++r)
#pragma unroll
        for (int c = 0; c < column_tiles; ++c)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                sum[r][c][i] = 0;
}

// Pieces of a row that change places with each other, so that the same piece of eight rows lies in different banks, as
// do neighbouring pieces of a row.
template <int depth> constexpr int cycle = depth % 64 == 0 ? 8 : 4;

// The element at which a piece of a row starts.
template <int depth> __device__ __forceinline__ int offset(int row, int piece_of_row) {
    static_assert(depth % 32 == 0);
    constexpr int c = cycle<depth>;
    const int turn = c == 8 ? row % 8 : row / 2 % 4;
    return row * depth + piece_of_row / c * c * piece + (piece_of_row % c ^ turn) * piece;
}

// Rows of a head from some token on, `count` of them. D is a multiple of 8.
template <class T> struct Rows {
    T* first;
    std::int64_t stride;
    int count, head_dim;

    __device__ Rows(T* of_head, std::int64_t stride_, int token, const AttentionHeads& heads)
        : first(of_head + token * stride_), stride(stride_), count(heads.tokens - token), head_dim(heads.head_dim) {}
};

// to: (rows, depth), with zeros beyond the last row and beyond D. There after wait_for_copies and a barrier.
template <int depth, int rows, int threads, class T>
__device__ __forceinline__ void copy_tile(T* to, const Rows<const T>& from) {
    constexpr int c = cycle<depth>, pass_rows = threads / c; // neighbouring lanes copy the pieces of a cycle
    static_assert(rows % pass_rows == 0 && pass_rows % 8 == 0);
    const int row = static_cast<int>(threadIdx.x / c), first_piece = static_cast<int>(threadIdx.x % c);
    const int rows_left = from.count - row, columns_left = from.head_dim - first_piece * piece;
    const T* source = from.first + row * from.stride + first_piece * piece;
    to += offset<depth>(row, first_piece);
#pragma unroll
    for (int i = 0; i < rows / pass_rows; ++i) {
#pragma unroll
        for (int j = 0; j < depth / (c * piece); ++j)
            cuda::copy_16_bytes_if(i * pass_rows < rows_left && j * c * piece < columns_left,
                                   to + i * pass_rows * depth + j * c * piece, source + j * c * piece);
        source += pass_rows * from.stride;
    }
}

// Fragments of a left factor, 16 rows by 16 columns each, and of a right one, two of 16 by 8.
using Left = std::uint32_t[4];
using Right = std::uint32_t[4];

// sum += left right^T: 16 row_tiles rows of `left` from its first, 8 column_tiles rows of `right`; row by row products.
template <int depth, int row_tiles, int column_tiles, class T>
__device__ __forceinline__ void multiply_rows(Sum<row_tiles, column_tiles>& sum, const T* left, const T* right) {
#pragma unroll
    for (int k = 0; k < depth / 16; ++k) {
        Left a[row_tiles];
#pragma unroll
        for (int r = 0; r < row_tiles; ++r)
            cuda::load_matrix_x4(a[r], left + 16 * r * depth + offset<depth>(lane() % 16, 2 * k + lane() / 16));
#pragma unroll
        for (int c = 0; c < column_tiles; c += 2) {
            Right b;
            cuda::load_matrix_x4(b, right + 8 * c * depth +
                                        offset<depth>(lane() % 8 + lane() / 16 * 8, 2 * k + lane() / 8 % 2));
            const std::uint32_t even[2] = {b[0], b[1]}, odd[2] = {b[2], b[3]};
#pragma unroll
            for (int r = 0; r < row_tiles; ++r) {
                cuda::multiply_add(sum[r][c], a[r], even, T{});
                cuda::multiply_add(sum[r][c + 1], a[r], odd, T{});
            }
        }
    }
}

// sum += left right: `left` as fragments, 16 steps columns; right: (16 steps, depth).
template <int depth, int row_tiles, int steps, class T> __device__ __forceinline__ void
multiply(Sum<row_tiles, depth / 8>& sum, const Left (&left)[row_tiles][steps], const T* right) {
#pragma unroll
    for (int k = 0; k < steps; ++k)
#pragma unroll
        for (int c = 0; c < depth / 8; c += 2) {
            Right b;
            cuda::load_matrix_x4_transposed(b, right + 16 * k * depth + offset<depth>(lane() % 16, c + lane() / 16));
            const std::uint32_t even[2] = {b[0], b[1]}, odd[2] = {b[2], b[3]};
#pragma unroll
            for (int r = 0; r < row_tiles; ++r) {
                cuda::multiply_add(sum[r][c], left[r][k], even, T{});
                cuda::multiply_add(sum[r][c + 1], left[r][k], odd, T{});
            }
        }
}

// Two numbers, rounded, the first in the lower half.
template <class T> __device__ __forceinline__ std::uint32_t pack(float first, float second);
template <> __device__ __forceinline__ std::uint32_t pack<__nv_bfloat16>(float first, float second) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
    std::uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}
template <> __device__ __forceinline__ std::uint32_t pack<__half>(float first, float second) {
    const __half2 pair = __floats2half2_rn(first, second);
    std::uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

// A sum, rounded, as the left factor of the next product: two 16 x 8 sums are a 16 x 16 factor, lane by lane.
template <class T, int row_tiles, int column_tiles> __device__ __forceinline__ void
as_left(Left (&left)[row_tiles][column_tiles / 2], const Sum<row_tiles, column_tiles>& sum) {
#pragma unroll
    for (int r = 0; r < row_tiles; ++r)
#pragma unroll
        for (int k = 0; k < column_tiles / 2; ++k)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                left[r][k][i] = pack<T>(sum[r][2 * k + i / 2][i % 2 * 2], sum[r][2 * k + i / 2][i % 2 * 2 + 1]);
}

// Minus infinity where a query of the warp, the first being `query`, does not see the key.
template <int row_tiles, int key_tiles> __device__ __forceinline__ void
mask(Sum<row_tiles, key_tiles>& score, const AttentionHeads& heads, int query, int key) {
    const int end = heads.tokens - key - lane_column();
    const int last = heads.causal ? query - key + lane_row() - lane_column() : end; // of the lane's row 0
#pragma unroll
    for (int r = 0; r < row_tiles; ++r)
#pragma unroll
        for (int c = 0; c < key_tiles; ++c)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int column = element_column(c, i);
                if (column >= end || column - element_row(r, i) > last) score[r][c][i] = -INFINITY;
            }
}

// Writes a warp's rows, times `factor`, by way of its own rows of a tile, which it alone has read: 16 bytes a lane.
template <int depth, int row_tiles, class T> __device__ __forceinline__ void
store_rows(const Rows<T>& to, T* tile, const Sum<row_tiles, depth / 8>& sum, float factor) {
    __syncwarp();
#pragma unroll
    for (int r = 0; r < row_tiles; ++r)
#pragma unroll
        for (int c = 0; c < depth / 8; ++c)
#pragma unroll
            for (int i = 0; i < 4; i += 2)
                *reinterpret_cast<std::uint32_t*>(tile + offset<depth>(element_row(r, i) + lane_row(), c) +
                                                  lane_column()) =
                    pack<T>(factor * sum[r][c][i], factor * sum[r][c][i + 1]);
    __syncwarp();
    constexpr int pieces = depth / piece;
#pragma unroll
    for (int i = 0; i < row_tiles * 16 * pieces / 32; ++i) {
        const int index = i * 32 + lane(), row = index / pieces, column = index % pieces;
        if (row < to.count && column * piece < to.head_dim)
            *reinterpret_cast<uint4*>(to.first + row * to.stride + column * piece) =
                *reinterpret_cast<const uint4*>(tile + offset<depth>(row, column));
    }
}

} // namespace tessera::kernels::tiles
