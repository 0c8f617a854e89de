// SPDX-License-Identifier: Apache-2.0
// Faults in how the threads of a kernel work together: barriers, shuffles, atomics, asynchronous copies.
#include "tests/cuda_emulation/self_test/faults.hpp"

namespace tessera::emulation {
namespace {

constexpr int count = Trial::count;
constexpr unsigned block = Trial::threads;

__device__ int thread() { return static_cast<int>(threadIdx.x); }
__device__ void store(float* y, float value) {
    if (thread() < count) y[thread()] = value;
}

template <bool broken> __global__ void write_then_read(float* y) {
    TESSERA_SHARED(float, tile, [block]);
    tile[thread()] = 1;
    if constexpr (!broken) __syncthreads();
    store(y, thread() > 0 ? tile[thread() - 1] : 1.f);
}
void missing_barrier(Trial& trial, bool broken) {
    trial.launch(broken ? write_then_read<true> : write_then_read<false>, 1, block, 0, trial.result);
}

template <bool broken> __global__ void read_then_overwrite(float* y) {
    TESSERA_SHARED(float, tile, [block]);
    tile[thread()] = 1;
    __syncthreads();
    const float value = thread() == 0 ? tile[200] : 1.f;
    if constexpr (!broken) __syncthreads();
    if (thread() == 200) tile[200] = 5;
    store(y, value);
}
void overwrites_too_early(Trial& trial, bool broken) {
    trial.launch(broken ? read_then_overwrite<true> : read_then_overwrite<false>, 1, block, 0, trial.result);
}

// The end of a reduction by one warp, as it was written before warps could diverge.
template <bool broken> __global__ void reduce_in_a_warp(float* y) {
    TESSERA_SHARED(float, part, [64]);
    if (thread() < 64) part[thread()] = 1.f / 64;
    __syncthreads();
    if (thread() < 32)
        for (int half = 32; half > 0; half /= 2) {
            const float sum = part[thread()] + part[thread() + half];
            if constexpr (!broken) __syncwarp();
            part[thread()] = sum;
            if constexpr (!broken) __syncwarp();
        }
    __syncthreads();
    store(y, part[0]);
}
void missing_syncwarp(Trial& trial, bool broken) {
    trial.launch(broken ? reduce_in_a_warp<true> : reduce_in_a_warp<false>, 1, block, 0, trial.result);
}

template <bool broken> __global__ void count_threads(float* y) {
    TESSERA_SHARED(int, sum, [1]);
    if (thread() == 0) sum[0] = 0;
    __syncthreads();
    if constexpr (broken)
        sum[0] += 1;
    else
        atomicAdd(&sum[0], 1);
    __syncthreads();
    store(y, static_cast<float>(sum[0]) / block);
}
void missing_atomic(Trial& trial, bool broken) {
    trial.launch(broken ? count_threads<true> : count_threads<false>, 1, block, 0, trial.result);
}

template <bool broken> __global__ void write_by_blocks(float* y, float* scratch) {
    if (thread() == 0) scratch[broken ? 0 : blockIdx.x] = static_cast<float>(blockIdx.x);
    if (blockIdx.x == 0) store(y, 1);
}
void blocks_write_one_word(Trial& trial, bool broken) {
    trial.launch(broken ? write_by_blocks<true> : write_by_blocks<false>, 4, block, 0, trial.result, trial.scratch);
}

// The block that is through last adds up what all have left. Sound with a fence before the count.
template <bool broken> __global__ void last_block_adds(float* y, float* parts, unsigned* ticket) {
    TESSERA_SHARED(bool, last, [1]);
    if (thread() == 0) {
        parts[blockIdx.x] = 1.f / 4;
        if constexpr (!broken) __threadfence();
        last[0] = atomicInc(ticket, 3) == 3;
    }
    __syncthreads();
    if (last[0]) store(y, parts[0] + parts[1] + parts[2] + parts[3]);
}
void missing_fence(Trial& trial, bool broken) {
    trial.check(cudaMemsetAsync(trial.scratch + 100, 0, sizeof(unsigned), trial.stream));
    trial.launch(broken ? last_block_adds<true> : last_block_adds<false>, 4, block, 0, trial.result, trial.scratch,
                 reinterpret_cast<unsigned*>(trial.scratch + 100));
}

template <bool broken> __global__ void two_barriers(float* y) {
    store(y, 1);
    if (broken && thread() < 100) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}
void divergent_barrier(Trial& trial, bool broken) {
    trial.launch(broken ? two_barriers<true> : two_barriers<false>, 1, block, 0, trial.result);
}

template <bool broken> __global__ void shuffle_in_a_branch(float* y) {
    float value = 1;
    if (!broken || threadIdx.x % 32 < 16) value = __shfl_xor_sync(~0u, value, 8);
    __syncthreads();
    store(y, value);
}
void shuffle_without_all_lanes(Trial& trial, bool broken) {
    trial.launch(broken ? shuffle_in_a_branch<true> : shuffle_in_a_branch<false>, 1, block, 0, trial.result);
}

template <bool broken> __global__ void shuffle_across_halves(float* y) {
    float value = 1;
    if (threadIdx.x % 32 < 16) value = __shfl_xor_sync(0xffffu, value, broken ? 16 : 8);
    store(y, value);
}
void shuffle_from_an_idle_lane(Trial& trial, bool broken) {
    trial.launch(broken ? shuffle_across_halves<true> : shuffle_across_halves<false>, 1, block, 0, trial.result);
}

template <bool broken> __global__ void vote_of_some(float* y) {
    const unsigned mask = broken ? 0xffffu : ~0u;
    store(y, __any_sync(mask, 1) ? 1.f : 0.f);
}
void lane_outside_of_its_mask(Trial& trial, bool broken) {
    trial.launch(broken ? vote_of_some<true> : vote_of_some<false>, 1, block, 0, trial.result);
}

template <bool wait, bool barrier> __global__ void stage(float* y, const float* x) {
    TESSERA_SHARED(float, tile, [block]);
    tile[thread()] = 0;
    __syncthreads();
    if (thread() < 240 / 4) cuda::copy_16_bytes(tile + thread() * 4, x + thread() * 4);
    cuda::end_copy_group();
    if constexpr (wait) cuda::wait_for_copies<0>();
    if constexpr (barrier) __syncthreads();
    store(y, thread() < 240 ? tile[239 - thread()] : 1.f);
}
void copy_not_waited_for(Trial& trial, bool broken) {
    trial.launch(broken ? stage<false, true> : stage<true, true>, 1, block, 0, trial.result, trial.ones);
}
void copy_without_a_barrier(Trial& trial, bool broken) {
    trial.launch(broken ? stage<true, false> : stage<true, true>, 1, block, 0, trial.result, trial.ones);
}

template <bool broken> __global__ void load_tile(float* y) {
    TESSERA_SHARED(std::uint32_t, tile, [32 * 5]); // rows of 20 bytes, or of 16
    for (int i = thread(); i < 32 * 5; i += static_cast<int>(block))
        tile[i] = 0;
    __syncthreads();
    std::uint32_t matrices[4] = {1, 1, 1, 1};
    cuda::load_matrix_x4(matrices, tile + threadIdx.x % 32 * (broken ? 5 : 4));
    store(y, matrices[0] + matrices[3] == 0 ? 1.f : 0.f);
}
void matrix_rows_not_aligned(Trial& trial, bool broken) {
    trial.launch(broken ? load_tile<true> : load_tile<false>, 1, block, 0, trial.result);
}

} // namespace

std::vector<Fault> faults_of_kernels() {
    return {{"missing_barrier", missing_barrier},
            {"overwrites_too_early", overwrites_too_early},
            {"missing_syncwarp", missing_syncwarp},
            {"missing_atomic", missing_atomic},
            {"blocks_write_one_word", blocks_write_one_word},
            {"missing_fence", missing_fence},
            {"divergent_barrier", divergent_barrier},
            {"shuffle_without_all_lanes", shuffle_without_all_lanes},
            {"shuffle_from_an_idle_lane", shuffle_from_an_idle_lane},
            {"lane_outside_of_its_mask", lane_outside_of_its_mask},
            {"copy_not_waited_for", copy_not_waited_for},
            {"copy_without_a_barrier", copy_without_a_barrier},
            {"matrix_rows_not_aligned", matrix_rows_not_aligned}};
}

} // namespace tessera::emulation
