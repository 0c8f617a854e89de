// SPDX-License-Identifier: Apache-2.0
// A row of a norm in the registers of a team: the threads of a warp or, for wide rows, of a block. For norm.cu and
// norm_gradient.cu alone.
#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/piece.cuh"

#include <string_view>

namespace tessera::cuda {

inline constexpr int norm_warps = 8;          // of a block whose warps have a row each
inline constexpr int norm_loop_threads = 256; // of a block that reads its row again for each pass

// A lane holds `groups` * 8 elements. Rows of up to 1024 columns are a warp's; a block has at most 512 threads, so that
// each may have 128 registers.
inline constexpr std::int64_t widest_warp_row = 32 * 4 * 8;
inline constexpr std::int64_t widest_row = 512 * 4 * 8;

template <class T, int groups, bool whole_block> struct Team {
    static constexpr int width = Vector<T>::count;
    static constexpr int pieces = groups * 8 / width;
    static constexpr int largest_block = whole_block ? 512 : 32 * norm_warps;

    __device__ static int lane() { return static_cast<int>(whole_block ? threadIdx.x : threadIdx.x % 32); }
    __device__ static int lanes() { return static_cast<int>(whole_block ? blockDim.x : 32); }
    __device__ static std::int64_t number() {
        return whole_block ? blockIdx.x : static_cast<std::int64_t>(blockIdx.x) * norm_warps + threadIdx.x / 32;
    }
    __device__ static std::int64_t count() {
        return whole_block ? gridDim.x : static_cast<std::int64_t>(gridDim.x) * norm_warps;
    }
    // The first column of the lane's piece k.
    __device__ static int column(int k) { return (k * lanes() + lane()) * width; }

    __device__ static float2 sums(float a, float b) {
        if constexpr (whole_block)
            return block_sums(a, b);
        else
            return make_float2(warp_sum(a), warp_sum(b));
    }
    __device__ static float sum(float a) {
        if constexpr (whole_block)
            return block_sum(a);
        else
            return warp_sum(a);
    }
};

// Calls work.template operator()<groups, whole_block>(threads of a block).
template <class Work> void with_team(std::int64_t columns, const Work& work) {
    constexpr int threads = 32 * norm_warps;
    const auto block_of = [&](int groups) { return static_cast<int>(divide_up(columns, 32 * groups * 8) * 32); };
    if (columns <= 32 * 8)
        work.template operator()<1, false>(threads);
    else if (columns <= 2 * 32 * 8)
        work.template operator()<2, false>(threads);
    else if (columns <= 3 * 32 * 8)
        work.template operator()<3, false>(threads);
    else if (columns <= widest_warp_row)
        work.template operator()<4, false>(threads);
    else if (columns <= widest_row / 2)
        work.template operator()<2, true>(block_of(2));
    else
        work.template operator()<4, true>(block_of(4));
}

// Whether the rows fit a team and are moved 16 bytes at a time.
template <class T> bool rows_fit(std::int64_t columns, std::initializer_list<const void*> starts) {
    return columns <= widest_row && columns % Vector<T>::count == 0 && aligned(starts);
}

// Rows and columns of x, from the count of scale.
struct NormSizes {
    std::int64_t rows;
    std::int64_t columns;
};
inline NormSizes norm_sizes(std::string_view kernel, const ConstView& x, const ConstView& scale) {
    const std::int64_t columns = scale.count();
    const std::int64_t rows = columns == 0 ? 0 : x.count() / columns;
    kernels::check_count(kernel, "x", x, rows * columns);
    return {rows, columns};
}

} // namespace tessera::cuda
