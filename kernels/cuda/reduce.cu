// SPDX-License-Identifier: Apache-2.0
// Sums in fixed orders on the GPU. What a thread adds depends on the sizes alone; how it loads it, on the alignment.
#include "kernels/cuda/piece.cuh"
#include "kernels/cuda/tensor_table.cuh"
#include "kernels/reduce.hpp"

#include <algorithm>

namespace tessera::kernels {
namespace {

// Sums over rows. A block has eight warps, each of which takes every eighth row of a tile of 256 columns.
constexpr int warps = 8;
constexpr int columns_per_lane = 8;
constexpr int columns_per_tile = 32 * columns_per_lane;

// partial[blockIdx.y, c] = sum of x[row, c] over the rows of this block      width: elements loaded at once
template <class T, int width> __global__ void __launch_bounds__(32 * warps)
    sum_rows_kernel(const T* __restrict__ x, std::int64_t rows, std::int64_t columns, std::int64_t rows_per_block,
                    float* __restrict__ partial) {
    TESSERA_SHARED(float, sums, [warps][columns_per_tile]);
    constexpr int loads = columns_per_lane / width;
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const std::int64_t first_column = static_cast<std::int64_t>(blockIdx.x) * columns_per_tile;
    const std::int64_t begin = blockIdx.y * rows_per_block;
    const std::int64_t end = begin + rows_per_block < rows ? begin + rows_per_block : rows;
    float own[loads][width] = {};
#pragma unroll(width == 1 ? 1 : 4)
    for (std::int64_t row = begin + warp; row < end; row += warps)
#pragma unroll
        for (int load = 0; load < loads; ++load) {
            const std::int64_t c = first_column + (load * 32 + lane) * width;
            if (c >= columns) continue;
            const auto piece = cuda::load_piece<width>(x + row * columns + c);
#pragma unroll
            for (int i = 0; i < width; ++i)
                own[load][i] += cuda::to_float(piece.element[i]);
        }
#pragma unroll
    for (int load = 0; load < loads; ++load)
#pragma unroll
        for (int i = 0; i < width; ++i)
            sums[warp][(load * 32 + lane) * width + i] = own[load][i];
    __syncthreads();
    const std::int64_t c = first_column + threadIdx.x;
    if (c >= columns) return;
    float sum = 0;
#pragma unroll
    for (int other = 0; other < warps; ++other)
        sum += sums[other][threadIdx.x];
    partial[blockIdx.y * columns + c] = sum;
}
static_assert(columns_per_tile == 32 * warps, "a thread of the block adds up one column");

template <class T> void sum_rows_of_blocks(CudaStream& stream, const T* x, std::int64_t rows, std::int64_t columns,
                                           std::int64_t rows_per_block, float* y) {
    constexpr int width = 16 / static_cast<int>(sizeof(T));
    const dim3 grid(cuda::blocks(columns, columns_per_tile), cuda::blocks(rows, rows_per_block));
    const auto run = [&](auto kernel) {
        cuda::launch("sum_rows", stream, kernel, grid, 32 * warps, 0, x, rows, columns, rows_per_block, y);
    };
    if (columns % width == 0 && cuda::aligned({x}))
        run(sum_rows_kernel<T, width>);
    else
        run(sum_rows_kernel<T, 1>);
}

// Enough blocks for some hundred multiprocessors, each with 64 rows at least; at most 256 partial sums of a column.
std::int64_t rows_per_block_of(std::int64_t rows, std::int64_t columns) {
    const std::int64_t tiles = std::max<std::int64_t>(1, cuda::divide_up(columns, columns_per_tile));
    const std::int64_t blocks = std::clamp<std::int64_t>(cuda::divide_up(768, tiles), 1, 256);
    return std::max<std::int64_t>(64, cuda::divide_up(rows, blocks));
}

struct Squares {
    const float* x;
    float* blocks;
    std::int64_t count;
    bool aligned;
};

constexpr int square_threads = 256;

// The four elements from `first` on; `absent` beyond the end.
__device__ __forceinline__ cuda::Piece<float, 4> load_4(const float* x, std::int64_t first, std::int64_t count,
                                                        bool aligned, float absent) {
    if (aligned && first + 4 <= count) return cuda::load_piece<4>(x + first);
    cuda::Piece<float, 4> piece;
#pragma unroll
    for (int i = 0; i < 4; ++i)
        piece.element[i] = first + i < count ? x[first + i] : absent;
    return piece;
}

__global__ void __launch_bounds__(square_threads) square_sums_kernel(const cuda::TensorTable<Squares> table) {
    const int which = table.of_block(blockIdx.x);
    const Squares tensor = table.tensor[which];
    const std::int64_t block = blockIdx.x - table.first_block[which];
    constexpr int steps = square_sum_block / (4 * square_threads);
    float sum = 0;
#pragma unroll
    for (int step = 0; step < steps; ++step) {
        const std::int64_t first = block * square_sum_block + (step * square_threads + threadIdx.x) * 4;
        const auto piece = load_4(tensor.x, first, tensor.count, tensor.aligned, 0);
#pragma unroll
        for (int i = 0; i < 4; ++i)
            sum = fmaf(piece.element[i], piece.element[i], sum);
    }
    sum = cuda::block_sum(sum);
    if (threadIdx.x == 0) tensor.blocks[block] = sum;
}

struct Summed {
    const float* x;
    float* y;
    std::int64_t count;
    bool aligned;
};

constexpr int tree_threads = 1024;
constexpr int leaf = 4 * tree_threads; // elements that a block takes at once: a power of two

// The tree over the 32 lanes, neighbours first.
__device__ __forceinline__ float tree_in_warp(float value) {
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2)
        value += __shfl_xor_sync(cuda::all_lanes, value, distance);
    return value;
}

// One block, one tensor. Elements beyond the end are -0: adding it changes nothing, not even a -0, so that what has no
// neighbour moves up as it is. The sums of whole leaves are merged as a binary counter merges equals.
__global__ void __launch_bounds__(tree_threads) sums_kernel(const cuda::TensorTable<Summed> table) {
    TESSERA_SHARED(float, parts, [32]);
    TESSERA_SHARED(float, waiting, [64]); // of the first thread: sums of leaves that have no neighbour yet
    const Summed tensor = table.tensor[blockIdx.x];
    const int thread = static_cast<int>(threadIdx.x);
    int count = 0;
    for (std::int64_t start = 0, number = 1; start < tensor.count; start += leaf, ++number) {
        const auto four = load_4(tensor.x, start + 4 * thread, tensor.count, tensor.aligned, -0.0f);
        float sum = tree_in_warp((four.element[0] + four.element[1]) + (four.element[2] + four.element[3]));
        if (thread % 32 == 0) parts[thread / 32] = sum;
        __syncthreads();
        if (thread < 32) {
            sum = tree_in_warp(parts[thread]);
            if (thread == 0) {
                for (std::int64_t equal = number; equal % 2 == 0; equal /= 2)
                    sum = waiting[--count] + sum;
                waiting[count++] = sum;
            }
        }
        __syncthreads();
    }
    if (thread != 0) return;
    float sum = count == 0 ? 0.0f : waiting[--count];
    while (count > 0)
        sum = waiting[--count] + sum;
    *tensor.y = sum;
}

template <class Tensor> Tensor described(const ConstView& x, float* y) {
    return {cuda::pointer<float>(x), y, x.count(), cuda::aligned({x.data})};
}

} // namespace

std::int64_t sum_rows_workspace_bytes(const CudaStream&, std::int64_t rows, std::int64_t columns) {
    const std::int64_t blocks = cuda::divide_up(rows, rows_per_block_of(rows, columns));
    return blocks <= 1 ? 0 : blocks * columns * bytes_of(DType::f32);
}

void sum_rows(CudaStream& stream, ConstView x, View y, View workspace) {
    const std::int64_t columns = y.count();
    const std::int64_t rows = columns == 0 ? 0 : x.count() / columns;
    check_count("sum_rows", "x", x, rows * columns);
    check_workspace("sum_rows", workspace, sum_rows_workspace_bytes(stream, rows, columns));
    auto* result = cuda::pointer<float>(y);
    if (columns == 0) return;
    if (rows == 0)
        return cuda::check(cudaMemsetAsync(result, 0, static_cast<std::size_t>(y.bytes()), stream.state().stream),
                           "cudaMemsetAsync", y.bytes());
    const std::int64_t rows_per_block = rows_per_block_of(rows, columns);
    const std::int64_t blocks = cuda::divide_up(rows, rows_per_block);
    auto* partial = blocks == 1 ? result : static_cast<float*>(workspace.memory());
    cuda::with_float_type("sum_rows", x.dtype, [&]<class T>() {
        sum_rows_of_blocks(stream, cuda::pointer<T>(x), rows, columns, rows_per_block, partial);
    });
    if (blocks > 1) sum_rows_of_blocks<float>(stream, partial, blocks, columns, blocks, result);
}

void square_sums(CudaStream& stream, std::span<const View> x, std::span<const View> blocks) {
    check_tensors("square_sums", "blocks", blocks.size(), x.size());
    const auto add = [&](Squares& tensor, std::size_t i) {
        check_count("square_sums", "blocks", blocks[i], cuda::divide_up(x[i].count(), square_sum_block));
        tensor = described<Squares>(x[i], cuda::pointer<float>(blocks[i]));
        return cuda::blocks(tensor.count, square_sum_block);
    };
    cuda::for_tables<Squares>(x.size(), add, [&](const cuda::TensorTable<Squares>& table) {
        cuda::launch("square_sums", stream, square_sums_kernel, cuda::blocks(table), square_threads, 0, table);
    });
}

void sum(CudaStream& stream, ConstView x, View y) {
    check_count("sum", "the result", y, 1);
    const View one(const_cast<void*>(x.data), x.shape, x.dtype);
    sums(stream, {&one, 1}, y);
}

void sums(CudaStream& stream, std::span<const View> x, View y) {
    check_count("sums", "the result", y, static_cast<std::int64_t>(x.size()));
    const auto add = [&](Summed& tensor, std::size_t i) {
        tensor = described<Summed>(x[i], cuda::pointer<float>(y) + i);
        return 1u;
    };
    cuda::for_tables<Summed>(x.size(), add, [&](const cuda::TensorTable<Summed>& table) {
        cuda::launch("sums", stream, sums_kernel, cuda::blocks(table), tree_threads, 0, table);
    });
}

} // namespace tessera::kernels
