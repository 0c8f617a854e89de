// SPDX-License-Identifier: Apache-2.0
// Embedding on the GPU. For the gradient the positions of the tokens are sorted by token, stably and by digits of eight
// bits, so that a warp finds all rows of its token one after another; nothing is added by atomics.
#include "kernels/cuda/piece.cuh"
#include "kernels/embedding.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <string>

namespace tessera::kernels {
namespace {

constexpr int threads = 256;
constexpr int warps = threads / 32;
constexpr int digit_bits = 8;
constexpr int digits = 1 << digit_bits;
static_assert(digits == threads, "a thread of the sort looks after one digit");

// The rows [first, first + rows) of a table.
struct Rows {
    std::int64_t first;
    std::int64_t count;

    __device__ __forceinline__ bool have(std::int64_t token) const { return token >= first && token < first + count; }
};

template <class From, class To, int width> __global__ void __launch_bounds__(threads)
    embedding_kernel(const std::int32_t* __restrict__ tokens, const From* __restrict__ table, To* __restrict__ y,
                     std::int64_t count, std::int64_t vocabulary, Rows rows, std::int64_t columns, cuda::Fault* fault) {
    const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (n >= count) return;
    const std::int32_t token = tokens[n];
    if (token < 0 || token >= vocabulary) {
        if (lane == 0) cuda::report(fault, cuda::Fault::token, token, n, vocabulary);
        return;
    }
    const bool here = rows.have(token);
    const From* from = table + (token - rows.first) * columns;
    To* to = y + n * columns;
    for (std::int64_t c = lane * width; c < columns; c += 32 * width) {
        cuda::Piece<From, width> in{};
        if (here) in = cuda::load_piece<width>(from + c);
        cuda::Piece<To, width> out;
#pragma unroll
        for (int i = 0; i < width; ++i)
            out.element[i] = cuda::from_float<To>(here ? cuda::to_float(in.element[i]) : 0.0f);
        cuda::store_piece(to + c, out);
    }
}

__device__ __forceinline__ int digit_of(std::int32_t token, int shift) { return (token >> shift) & (digits - 1); }

// counts[tile, d] = how many tokens of a tile of `positions` have the digit d
__global__ void __launch_bounds__(threads)
    count_digits(const std::int32_t* __restrict__ tokens, const std::int32_t* __restrict__ positions,
                 std::int64_t count, std::int64_t per_tile, int shift, std::int64_t vocabulary,
                 std::int32_t* __restrict__ counts, cuda::Fault* fault) {
    TESSERA_SHARED(std::int32_t, histogram, [digits]);
    histogram[threadIdx.x] = 0;
    __syncthreads();
    const std::int64_t begin = blockIdx.x * per_tile;
    const std::int64_t end = begin + per_tile < count ? begin + per_tile : count;
    for (std::int64_t i = begin + threadIdx.x; i < end; i += threads) {
        const std::int64_t n = positions == nullptr ? i : positions[i];
        const std::int32_t token = tokens[n];
        if (token < 0 || token >= vocabulary) cuda::report(fault, cuda::Fault::token, token, n, vocabulary);
        atomicAdd(&histogram[digit_of(token, shift)], 1);
    }
    __syncthreads();
    counts[blockIdx.x * digits + threadIdx.x] = histogram[threadIdx.x];
}

// The sum of `value` over the threads before this one.
__device__ int sum_of_threads_before(int value) {
    TESSERA_SHARED(int, totals, [warps]);
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    int sum = value;
    for (int distance = 1; distance < 32; distance *= 2) {
        const int other = __shfl_up_sync(cuda::all_lanes, sum, distance);
        if (lane >= distance) sum += other;
    }
    if (lane == 31) totals[warp] = sum;
    __syncthreads();
    for (int other = 0; other < warp; ++other)
        sum += totals[other];
    return sum - value;
}

// Calls visit(position, digit, lanes of this round with the same digit) for a warp's share of a tile, in rounds of 32
// in the order of `positions`. Lanes beyond the end have the digit -1. Rounds are apart by __syncwarp.
template <class Visit>
__device__ __forceinline__ void for_rounds(const std::int32_t* tokens, const std::int32_t* positions,
                                           std::int64_t count, std::int64_t per_tile, int shift, const Visit& visit) {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const std::int64_t share = per_tile / warps;
    const std::int64_t begin = blockIdx.x * per_tile + warp * share;
    const std::int64_t end = begin + share < count ? begin + share : count;
    for (std::int64_t round = begin; round < end; round += 32) {
        const std::int64_t i = round + lane;
        const auto n = static_cast<std::int32_t>(i < end && positions != nullptr ? positions[i] : i);
        const int digit = i < end ? digit_of(tokens[n], shift) : -1;
        visit(n, digit, __match_any_sync(cuda::all_lanes, digit));
        __syncwarp();
    }
}

// sorted = `positions` by one digit of their tokens, those with the same digit in the order in which they came.
__global__ void __launch_bounds__(threads)
    sort_by_digit(const std::int32_t* __restrict__ tokens, const std::int32_t* __restrict__ positions,
                  std::int64_t count, std::int64_t per_tile, int shift, const std::int32_t* __restrict__ counts,
                  std::int32_t* __restrict__ sorted) {
    TESSERA_SHARED(std::int32_t, places, [warps][digits]); // first counts, then where the next of a warp's digit goes
    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
    int before = 0, total = 0; // of this thread's digit: in the tiles before, in all
    for (unsigned tile = 0; tile < gridDim.x; ++tile) {
        const int here = counts[tile * digits + thread];
        if (tile < blockIdx.x) before += here;
        total += here;
    }
    int place = sum_of_threads_before(total) + before;
    for (int other = 0; other < warps; ++other)
        places[other][thread] = 0;
    __syncthreads();
    for_rounds(tokens, positions, count, per_tile, shift, [&](std::int32_t, int digit, unsigned same) {
        if (digit >= 0 && lane == __ffs(static_cast<int>(same)) - 1) places[warp][digit] += __popc(same);
    });
    __syncthreads();
    for (int other = 0; other < warps; ++other) {
        const int here = places[other][thread];
        places[other][thread] = place;
        place += here;
    }
    __syncthreads();
    for_rounds(tokens, positions, count, per_tile, shift, [&](std::int32_t n, int digit, unsigned same) {
        if (digit >= 0) sorted[places[warp][digit] + __popc(same & ((1u << lane) - 1))] = n;
        __syncwarp();
        if (digit >= 0 && lane == __ffs(static_cast<int>(same)) - 1) places[warp][digit] += __popc(same);
    });
}

// ranges[2 v], ranges[2 v + 1]: where the token of row v begins and ends in the sorted positions; all are 0 before.
__global__ void __launch_bounds__(threads)
    find_ranges(const std::int32_t* __restrict__ tokens, const std::int32_t* __restrict__ sorted, std::int64_t count,
                Rows rows, std::int32_t* __restrict__ ranges) {
    const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (i >= count) return;
    const std::int32_t token = tokens[sorted[i]];
    if (!rows.have(token)) return;
    const std::int64_t row = token - rows.first;
    if (i == 0 || tokens[sorted[i - 1]] != token) ranges[2 * row] = static_cast<int>(i);
    if (i + 1 == count || tokens[sorted[i + 1]] != token) ranges[2 * row + 1] = static_cast<int>(i) + 1;
}

// From here on a token is the row of its shard. One with more rows of dy than these is left to
// add_rows_of_frequent_token.
constexpr int few_rows = 32;

// A warp adds the rows of one token, in 32 * width columns. Most tokens have none or one.
template <class T, int width> __global__ void __launch_bounds__(threads)
    add_few_rows(const std::int32_t* __restrict__ sorted, const std::int32_t* __restrict__ ranges,
                 const T* __restrict__ dy, std::int64_t vocabulary, std::int64_t columns, float* __restrict__ dtable) {
    const std::int64_t token = static_cast<std::int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
    const std::int64_t c = (static_cast<std::int64_t>(blockIdx.y) * 32 + threadIdx.x % 32) * width;
    if (token >= vocabulary || c >= columns) return;
    const int begin = ranges[2 * token], end = ranges[2 * token + 1];
    if (end - begin > few_rows) return;
    cuda::Piece<float, width> sums{};
#pragma unroll 2
    for (int i = begin; i < end; ++i) {
        const auto row = cuda::load_piece<width>(dy + sorted[i] * columns + c);
        for (int k = 0; k < width; ++k)
            sums.element[k] += cuda::to_float(row.element[k]);
    }
    cuda::store_piece(dtable + token * columns + c, sums);
}

// A block adds the rows of one token in 64 columns: all threads bring 64 rows at a time, the next while 64 threads add.
// Of the blocks of a token, one for each few_rows sorted positions, the first does it.
constexpr int staged_rows = 64;
constexpr int staged_columns = 64;

template <class T, int width> __global__ void __launch_bounds__(threads)
    add_rows_of_frequent_token(const std::int32_t* __restrict__ tokens, const std::int32_t* __restrict__ sorted,
                               const std::int32_t* __restrict__ ranges, const T* __restrict__ dy, Rows shard,
                               std::int64_t columns, float* __restrict__ dtable) {
    constexpr int threads_per_row = staged_columns / width;
    constexpr int rows_at_once = threads / threads_per_row;
    constexpr int pieces = staged_rows / rows_at_once;
    using Stage = cuda::Piece<T, staged_columns>;
    TESSERA_SHARED(Stage, stage, [staged_rows]);
    const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * few_rows;
    if (!shard.have(tokens[sorted[i]])) return;
    const std::int64_t token = tokens[sorted[i]] - shard.first;
    const int begin = ranges[2 * token], end = ranges[2 * token + 1];
    if (end - begin <= few_rows || i - few_rows >= begin) return;

    const int thread = static_cast<int>(threadIdx.x);
    const int own_row = thread / threads_per_row, own_column = thread % threads_per_row * width;
    const std::int64_t first_column = static_cast<std::int64_t>(blockIdx.y) * staged_columns;
    cuda::Piece<T, width> coming[pieces]{};
    const auto bring = [&](int first) {
#pragma unroll
        for (int k = 0; k < pieces; ++k) {
            const int row = first + k * rows_at_once + own_row;
            if (row < end && first_column + own_column < columns)
                coming[k] = cuda::load_piece<width>(dy + sorted[row] * columns + first_column + own_column);
        }
    };
    float sum = 0;
    bring(begin);
    for (int first = begin; first < end; first += staged_rows) {
#pragma unroll
        for (int k = 0; k < pieces; ++k)
            *reinterpret_cast<cuda::Piece<T, width>*>(stage[k * rows_at_once + own_row].element + own_column) =
                coming[k];
        __syncthreads();
        bring(first + staged_rows);
        if (thread < staged_columns) {
            const int rows = min(staged_rows, end - first);
#pragma unroll 8
            for (int row = 0; row < rows; ++row)
                sum += cuda::to_float(stage[row].element[thread]);
        }
        __syncthreads();
    }
    if (thread < staged_columns && first_column + thread < columns)
        dtable[token * columns + first_column + thread] = sum;
}

struct Sizes {
    std::int64_t tokens;
    std::int64_t vocabulary;
    Rows rows;
    std::int64_t columns;
};

Sizes checked_sizes(const char* kernel, const ConstView& tokens, const ConstView& table, VocabularyShard shard,
                    const ConstView& rows) {
    const Sizes sizes{
        tokens.count(), shard.classes, {shard.first, table.shape[0]}, table.shape.count(1, table.shape.rank())};
    check_count(kernel, "the rows", rows, sizes.tokens * sizes.columns);
    classes_in(kernel, shard, table.shape[0]);
    if (sizes.tokens > std::numeric_limits<std::int32_t>::max())
        throw InternalError(std::string(kernel) + ": at most 2^31 - 1 tokens are expected");
    return sizes;
}

// How the sort cuts N positions: at most 128 tiles, since every tile reads the counts of all.
constexpr std::int64_t least_tile = 1024;
std::int64_t positions_per_tile(std::int64_t tokens) {
    return std::max<std::int64_t>(1, cuda::divide_up(tokens, 128 * least_tile)) * least_tile;
}
std::int64_t tiles_of(std::int64_t tokens) { return cuda::divide_up(tokens, positions_per_tile(tokens)); }

// The workspace: the positions before and after a pass of the sort, the counts of its tiles, the range of each token.
struct Workspace {
    Workspace(void* memory, std::int64_t tokens, std::int64_t vocabulary) {
        auto* next = static_cast<std::int32_t*>(memory);
        const auto take = [&](std::int64_t count) { return std::exchange(next, next + count); };
        positions[0] = take(tokens);
        positions[1] = take(tokens);
        counts = take(tiles_of(tokens) * digits);
        ranges = take(2 * vocabulary);
    }
    static std::int64_t bytes(std::int64_t tokens, std::int64_t vocabulary) {
        return (2 * tokens + tiles_of(tokens) * digits + 2 * vocabulary) * bytes_of(DType::i32);
    }

    std::int32_t* positions[2];
    std::int32_t* counts;
    std::int32_t* ranges;
};

// Returns the positions sorted by token.
const std::int32_t* sort_positions(CudaStream& stream, const char* kernel, const std::int32_t* numbers,
                                   const Sizes& sizes, const Workspace& workspace) {
    const std::int64_t per_tile = positions_per_tile(sizes.tokens);
    const auto tiles = static_cast<unsigned>(tiles_of(sizes.tokens));
    const auto highest = static_cast<std::uint64_t>(std::max<std::int64_t>(sizes.vocabulary, 1) - 1);
    const auto bits = static_cast<int>(std::bit_width(highest));
    const std::int32_t* positions = nullptr; // in their own order
    int into = 0;
    for (int shift = 0; shift == 0 || shift < bits; shift += digit_bits, into = 1 - into) {
        cuda::launch(kernel, stream, count_digits, tiles, threads, 0, numbers, positions, sizes.tokens, per_tile, shift,
                     sizes.vocabulary, workspace.counts, stream.state().fault);
        cuda::launch(kernel, stream, sort_by_digit, tiles, threads, 0, numbers, positions, sizes.tokens, per_tile,
                     shift, workspace.counts, workspace.positions[into]);
        positions = workspace.positions[into];
    }
    return positions;
}

} // namespace

void embedding(CudaStream& stream, ConstView tokens, ConstView table, VocabularyShard shard, View y) {
    const Sizes sizes = checked_sizes("embedding", tokens, table, shard, y);
    cuda::with_float_type("embedding", table.dtype, [&]<class From>() {
        cuda::with_float_type("embedding", y.dtype, [&]<class To>() {
            const auto run = [&]<int width>() {
                cuda::launch("embedding", stream, embedding_kernel<From, To, width>, cuda::blocks(sizes.tokens, warps),
                             threads, 0, cuda::pointer<std::int32_t>(tokens), cuda::pointer<From>(table),
                             cuda::pointer<To>(y), sizes.tokens, sizes.vocabulary, sizes.rows, sizes.columns,
                             stream.state().fault);
            };
            if (sizes.columns % 8 == 0 && cuda::aligned({table.data, y.data}))
                run.template operator()<8>();
            else
                run.template operator()<1>();
        });
    });
}

std::int64_t embedding_gradient_workspace_bytes(const CudaStream&, std::int64_t tokens, std::int64_t vocabulary) {
    return Workspace::bytes(tokens, vocabulary);
}

void embedding_gradient(CudaStream& stream, ConstView tokens, ConstView dy, VocabularyShard shard, View dtable,
                        View workspace) {
    constexpr const char* name = "embedding_gradient";
    const Sizes sizes = checked_sizes(name, tokens, dtable, shard, dy);
    check_workspace(name, workspace, Workspace::bytes(sizes.tokens, sizes.rows.count));
    auto* table = cuda::pointer<float>(dtable);
    const auto* numbers = cuda::pointer<std::int32_t>(tokens);
    const Workspace parts(workspace.memory(), sizes.tokens, sizes.rows.count);
    const std::int64_t range_bytes = 2 * sizes.rows.count * bytes_of(DType::i32);
    if (range_bytes > 0)
        cuda::check(cudaMemsetAsync(parts.ranges, 0, static_cast<std::size_t>(range_bytes), stream.state().stream),
                    "cudaMemsetAsync", range_bytes);
    const std::int32_t* sorted = sort_positions(stream, name, numbers, sizes, parts);
    cuda::launch(name, stream, find_ranges, cuda::blocks(sizes.tokens, threads), threads, 0, numbers, sorted,
                 sizes.tokens, sizes.rows, parts.ranges);
    cuda::with_float_type(name, dy.dtype, [&]<class T>() {
        const auto run = [&]<int width>() {
            const dim3 grid(cuda::blocks(sizes.rows.count, warps), cuda::blocks(sizes.columns, 32 * width));
            cuda::launch(name, stream, add_few_rows<T, width>, grid, threads, 0, sorted, parts.ranges,
                         cuda::pointer<T>(dy), sizes.rows.count, sizes.columns, table);
            const dim3 frequent(cuda::blocks(sizes.tokens, few_rows), cuda::blocks(sizes.columns, staged_columns));
            cuda::launch(name, stream, add_rows_of_frequent_token<T, width>, frequent, threads, 0, numbers, sorted,
                         parts.ranges, cuda::pointer<T>(dy), sizes.rows, sizes.columns, table);
        };
        if (sizes.columns % 8 == 0 && cuda::aligned({dy.data, dtable.data}))
            run.template operator()<8>();
        else
            run.template operator()<1>();
    });
}

} // namespace tessera::kernels
