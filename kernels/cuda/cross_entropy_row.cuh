// SPDX-License-Identifier: Apache-2.0
// A row of logits on the GPU, shared by the threads of a team: its statistics in one pass (Milakov and Gimelshein 2018)
// and its gradient in another.
#pragma once

#include "kernels/cuda/piece.cuh"

#include <limits>
#include <type_traits>

namespace tessera::cuda {

constexpr float lowest = std::numeric_limits<float>::lowest();
constexpr float infinity = std::numeric_limits<float>::infinity();

// A row of a matrix, in groups of 16 bytes. They are cut as in a matrix that starts at a multiple of 16 bytes, so that
// the order of a sum over them is the same wherever the matrix lies; the first and the last may be shared with the
// neighbours. `vectors`: the matrix does start there. The first `count` of a row's columns belong to it.
template <class T> struct LogitRow {
    using Element = std::remove_const_t<T>;
    static constexpr int width = 16 / static_cast<int>(sizeof(T));

    T* element;
    std::int64_t count;
    int before; // elements of the first group that belong to the row before
    bool vectors;

    __device__ LogitRow(T* matrix, std::int64_t row, std::int64_t columns, std::int64_t used, bool starts_at_16_bytes)
        : element(matrix + row * columns), count(used), before(static_cast<int>(row * columns % width)),
          vectors(starts_at_16_bytes) {}

    __device__ __forceinline__ std::int64_t groups() const { return (before + count + width - 1) / width; }
    __device__ __forceinline__ std::int64_t first_of(std::int64_t group) const { return group * width - before; }
    __device__ __forceinline__ bool in_one_piece(std::int64_t first) const {
        return vectors && first >= 0 && first + width <= count;
    }
    // -infinity outside the row.
    __device__ __forceinline__ void load(std::int64_t group, float* to) const {
        const std::int64_t first = first_of(group);
        if (in_one_piece(first)) {
            const auto piece = load_piece<width, Element>(element + first);
#pragma unroll
            for (int i = 0; i < width; ++i)
                to[i] = to_float(piece.element[i]);
        } else {
#pragma unroll
            for (int i = 0; i < width; ++i)
                to[i] = first + i >= 0 && first + i < count ? to_float(element[first + i]) : -infinity;
        }
    }
    __device__ __forceinline__ void store(std::int64_t group, const float* from) const {
        const std::int64_t first = first_of(group);
        if (in_one_piece(first)) {
            Piece<Element, width> piece;
#pragma unroll
            for (int i = 0; i < width; ++i)
                piece.element[i] = from_float<Element>(from[i]);
            store_piece(element + first, piece);
        } else {
#pragma unroll
            for (int i = 0; i < width; ++i)
                if (first + i >= 0 && first + i < count) element[first + i] = from_float<Element>(from[i]);
        }
    }
};

// The largest of some logits, `lowest` at least, and the sum of exp(logit - maximum).
struct LogitStatistics {
    float maximum = lowest;
    float sum = 0;

    template <int count> __device__ __forceinline__ void add(const float (&logits)[count]) {
        float high = maximum;
#pragma unroll
        for (int i = 0; i < count; ++i)
            high = fmaxf(high, logits[i]);
        float powers = 0;
#pragma unroll
        for (int i = 0; i < count; ++i)
            powers += __expf(logits[i] - high);
        sum = sum * __expf(maximum - high) + powers;
        maximum = high;
    }
};

__device__ __forceinline__ LogitStatistics merged_in_warp(LogitStatistics own) {
    const float high = warp_max(own.maximum);
    return {high, warp_sum(own.sum * __expf(own.maximum - high))};
}

// Over a block of whole warps; all have read what they read before.
__device__ __forceinline__ LogitStatistics merged_in_block(LogitStatistics own) {
    TESSERA_SHARED(float2, parts, [32]);
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    own = merged_in_warp(own);
    if (lane == 0) parts[warp] = make_float2(own.maximum, own.sum);
    __syncthreads();
    const bool there = lane < static_cast<int>(blockDim.x) / 32;
    const float2 part = there ? parts[lane] : make_float2(lowest, 0);
    return merged_in_warp({part.x, part.y});
}

// By the `team` threads that share a row, `thread` being one of them. Called once in a kernel.
template <int team, class T>
__device__ __forceinline__ LogitStatistics statistics_of(const LogitRow<T>& row, int thread) {
    constexpr int width = LogitRow<T>::width;
    const std::int64_t groups = row.groups();
    LogitStatistics own;
    for (std::int64_t group = thread; group < groups; group += 2 * team) {
        float logits[2 * width];
        row.load(group, logits);
        row.load(group + team, logits + width);
        own.add(logits);
    }
    if constexpr (team > 32) {
        return merged_in_block(own);
    } else {
        own = merged_in_warp(own);
        __syncwarp(); // as the block's barrier does
        return own;
    }
}

// to = scale * (exp(logit - maximum) / sum - (column == target)); `to` may be the logits' memory.
template <int team, class T>
__device__ __forceinline__ void write_logit_gradient(const LogitRow<T>& row, const LogitRow<T>& to, int thread,
                                                     std::int64_t target, LogitStatistics statistics, float scale) {
    constexpr int width = LogitRow<T>::width;
    const std::int64_t groups = row.groups();
    const float factor = scale / statistics.sum;
    for (std::int64_t group = thread; group < groups; group += team) {
        float values[width];
        row.load(group, values);
#pragma unroll
        for (int i = 0; i < width; ++i) {
            const float share = __expf(values[i] - statistics.maximum) * factor;
            values[i] = row.first_of(group) + i == target ? share - scale : share;
        }
        to.store(group, values);
    }
}

template <int team, class T> __device__ __forceinline__ void write_logit_zeros(const LogitRow<T>& to, int thread) {
    const float zeros[LogitRow<T>::width] = {};
    const std::int64_t groups = to.groups();
    for (std::int64_t group = thread; group < groups; group += team)
        to.store(group, zeros);
}

// A team of 32 shares its block with three others; a larger one is a block.
template <int team> constexpr int threads_of_team = team == 32 ? 128 : team;
template <int team> unsigned blocks_of_teams(std::int64_t rows) { return blocks(rows, threads_of_team<team> / team); }
template <int team> __device__ __forceinline__ std::int64_t row_of_team() {
    return static_cast<std::int64_t>(blockIdx.x) * (threads_of_team<team> / team) +
           static_cast<int>(threadIdx.x) / team;
}

// Calls work.template operator()<team>() with the number of threads for a row. Short rows get a warp each.
template <class Work> void with_logit_team(std::int64_t classes, const Work& work) {
    if (classes <= 1024)
        work.template operator()<32>();
    else if (classes <= 8192)
        work.template operator()<128>();
    else
        work.template operator()<512>();
}

} // namespace tessera::cuda
