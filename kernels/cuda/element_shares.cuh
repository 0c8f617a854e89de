// SPDX-License-Identifier: Apache-2.0
// How the elements of a tensor are shared out among the threads of an optimizer's step.
#pragma once

#include "kernels/cuda/piece.cuh"
#include "kernels/cuda/tensor_table.cuh"

namespace tessera::cuda {

inline constexpr int share_threads = 256; // of a block
inline constexpr int share_steps = 4;
inline constexpr int elements_per_block = share_threads * 4 * share_steps;

using Four = Piece<float, 4>;

// Up to four elements of a tensor.
struct Share {
    std::int64_t first;
    int count;
    bool in_one_piece;

    __device__ __forceinline__ Four load(const float* from) const {
        if (in_one_piece) return load_piece<4>(from + first);
        Four four{};
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (i < count) four.element[i] = from[first + i];
        return four;
    }
    __device__ __forceinline__ void store(float* to, const Four& four) const {
        if (in_one_piece) return store_piece(to + first, four);
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (i < count) to[first + i] = four.element[i];
    }
    __device__ __forceinline__ void store(__nv_bfloat16* to, const Four& four) const {
        Piece<__nv_bfloat16, 4> low;
#pragma unroll
        for (int i = 0; i < 4; ++i)
            low.element[i] = from_float<__nv_bfloat16>(four.element[i]);
        if (in_one_piece) return store_piece(to + first, low);
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (i < count) to[first + i] = low.element[i];
    }
};

// Calls work(share) for this thread's share of what its block does of a tensor.
template <class Work>
__device__ __forceinline__ void for_shares(std::int64_t block, std::int64_t count, bool aligned, const Work& work) {
#pragma unroll 2
    for (int step = 0; step < share_steps; ++step) {
        const std::int64_t first = block * elements_per_block + (step * share_threads + threadIdx.x) * 4;
        if (first >= count) return;
        const bool whole = first + 4 <= count;
        work(Share{first, whole ? 4 : static_cast<int>(count - first), whole && aligned});
    }
}

} // namespace tessera::cuda
