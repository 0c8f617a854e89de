// SPDX-License-Identifier: Apache-2.0
// Faults in which memory a kernel touches: beyond an end, of somebody else, freed, never written.
#include "tests/cuda_emulation/self_test/faults.hpp"

#include <cmath>

namespace tessera::emulation {
namespace {

constexpr int count = Trial::count;
constexpr unsigned block = Trial::threads;

__global__ void fill(float* y, float value, int size) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < size) y[i] = value;
}
__global__ void copy(const float* x, float* y) {
    if (threadIdx.x < count) y[threadIdx.x] = x[threadIdx.x];
}

void writes_beyond_the_end(Trial& trial, bool broken) {
    trial.launch(fill, 1, block, 0, trial.result, 1.f, broken ? count + 1 : count);
}
void writes_far_beyond_the_end(Trial& trial, bool broken) {
    trial.launch(fill, 40, block, 0, trial.result, 1.f, broken ? 40 * 256 : count);
}

__global__ void look_at_next(const float* x, float* y, int size) {
    const int i = static_cast<int>(threadIdx.x);
    if (i < count) y[i] = x[i + 1 < size ? i + 1 : 0] < 1 ? 5.f : 1.f;
}
void reads_beyond_the_end(Trial& trial, bool broken) {
    trial.launch(look_at_next, 1, block, 0, trial.ones, trial.result, broken ? count + 1 : count);
}

template <bool dynamic> __global__ void shift(float* y, int size) {
    TESSERA_SHARED(float, fixed, [count]);
    TESSERA_DYNAMIC_SHARED(float, asked_for);
    float* const tile = dynamic ? asked_for : fixed;
    const int i = static_cast<int>(threadIdx.x);
    if (i < size) tile[i] = 1;
    __syncthreads();
    if (i < count) y[i] = tile[i];
}
void beyond_static_shared(Trial& trial, bool broken) {
    trial.launch(shift<false>, 1, block, 0, trial.result, broken ? count + 1 : count);
}
void beyond_dynamic_shared(Trial& trial, bool broken) {
    trial.launch(shift<true>, 1, block, Trial::bytes, trial.result, broken ? count + 1 : count);
}

void uninitialised_global(Trial& trial, bool broken) {
    trial.launch(copy, 1, block, 0, broken ? trial.scratch : trial.ones, trial.result);
}

__global__ void through_shared(float* y, int written) {
    TESSERA_SHARED(float, tile, [block]);
    if (static_cast<int>(threadIdx.x) < written) tile[threadIdx.x] = 1;
    __syncthreads();
    if (threadIdx.x < count) y[threadIdx.x] = tile[threadIdx.x];
}
void uninitialised_shared(Trial& trial, bool broken) {
    trial.launch(through_shared, 1, block, 0, trial.result, broken ? count / 2 : count);
}

// fmaxf takes the number where the other is none: garbage that is not a number goes unseen.
__global__ void largest(const float* x, float* y) {
    if (threadIdx.x < count) y[threadIdx.x] = fmaxf(1, x[threadIdx.x]);
}
void garbage_lost_in_a_maximum(Trial& trial, bool broken) {
    trial.launch(largest, 1, block, 0, broken ? trial.scratch : trial.ones, trial.result);
}

struct alignas(16) Four {
    float value[4];
};
template <bool through_the_language> __global__ void load_four(const float* x, float* y) {
    const auto* const four = reinterpret_cast<const Four*>(x);
    if constexpr (through_the_language) cuda::require_alignment(four, sizeof(Four));
    const Four loaded = *four;
    if (threadIdx.x < count)
        y[threadIdx.x] = (loaded.value[0] + loaded.value[1] + loaded.value[2] + loaded.value[3]) / 4;
}
void misaligned_vector(Trial& trial, bool broken) {
    trial.launch(load_four<true>, 1, block, 0, trial.ones + (broken ? 1 : 0), trial.result);
}
void misaligned_structure(Trial& trial, bool broken) {
    trial.launch(load_four<false>, 1, block, 0, trial.ones + (broken ? 1 : 0), trial.result);
}

void host_pointer(Trial& trial, bool broken) {
    for (int i = 0; i < count; ++i)
        trial.pinned[i] = 1;
    const std::vector<float> values(count, 1.f);
    trial.launch(copy, 1, block, 0, broken ? values.data() : trial.pinned, trial.result);
    trial.check(cudaStreamSynchronize(trial.stream));
}

void use_after_free(Trial& trial, bool broken) {
    float* memory = nullptr;
    trial.check(cudaMalloc(reinterpret_cast<void**>(&memory), Trial::bytes));
    trial.launch(fill, 1, block, 0, memory, 1.f, count);
    if (broken) trial.check(cudaFree(memory));
    trial.launch(copy, 1, block, 0, memory, trial.result);
    if (!broken) trial.check(cudaFree(memory));
}

void copy_of_freed_memory(Trial& trial, bool broken) {
    float* memory = nullptr;
    trial.check(cudaMalloc(reinterpret_cast<void**>(&memory), Trial::bytes));
    trial.launch(fill, 1, block, 0, memory, 1.f, count);
    if (broken) trial.check(cudaFree(memory));
    trial.check(cudaMemcpyAsync(trial.result, memory, Trial::bytes, cudaMemcpyDeviceToDevice, trial.stream));
    trial.check(cudaStreamSynchronize(trial.stream));
    if (!broken) trial.check(cudaFree(memory));
}

void memory_of_another_device(Trial& trial, bool broken) {
    float* memory = nullptr;
    trial.check(cudaSetDevice(broken ? 1 : 0));
    trial.check(cudaMalloc(reinterpret_cast<void**>(&memory), Trial::bytes));
    trial.check(cudaSetDevice(0));
    trial.check(cudaMemcpyAsync(memory, trial.ones, Trial::bytes, cudaMemcpyDefault, trial.stream));
    trial.launch(copy, 1, block, 0, memory, trial.result);
    trial.check(cudaFree(memory));
}

void stream_of_another_device(Trial& trial, bool broken) {
    trial.check(cudaSetDevice(broken ? 1 : 0));
    trial.launch(copy, 1, block, 0, trial.ones, trial.result);
    trial.check(cudaSetDevice(0));
}

__global__ void borrow(float* y, int lender) {
    TESSERA_SHARED(float*, address, [1]);
    float own = 1;
    if (static_cast<int>(threadIdx.x) == lender) address[0] = &own;
    __syncthreads();
    const float value = lender >= 0 ? *address[0] : own;
    __syncthreads();
    if (threadIdx.x < count) y[threadIdx.x] = value;
}
void another_threads_variable(Trial& trial, bool broken) {
    trial.launch(borrow, 1, block, 0, trial.result, broken ? 7 : -1);
}

void too_much_dynamic_shared(Trial& trial, bool broken) {
    const std::size_t bytes = broken ? (48 << 10) + 4 : (48 << 10) - 2048; // 1000 bytes of it are static
    trial.launch(shift<true>, 1, block, bytes, trial.result, count);
}
void too_much_shared_together(Trial& trial, bool broken) {
    trial.launch(shift<true>, 1, block, broken ? 48 << 10 : (48 << 10) - 2048, trial.result, count);
}

} // namespace

std::vector<Fault> faults_of_memory() {
    return {{"writes_beyond_the_end", writes_beyond_the_end},
            {"writes_far_beyond_the_end", writes_far_beyond_the_end},
            {"reads_beyond_the_end", reads_beyond_the_end},
            {"beyond_static_shared", beyond_static_shared},
            {"beyond_dynamic_shared", beyond_dynamic_shared},
            {"uninitialised_global", uninitialised_global},
            {"uninitialised_shared", uninitialised_shared},
            {"garbage_lost_in_a_maximum", garbage_lost_in_a_maximum},
            {"misaligned_vector", misaligned_vector},
            {"misaligned_structure", misaligned_structure},
            {"host_pointer", host_pointer},
            {"use_after_free", use_after_free},
            {"copy_of_freed_memory", copy_of_freed_memory},
            {"memory_of_another_device", memory_of_another_device},
            {"stream_of_another_device", stream_of_another_device},
            {"another_threads_variable", another_threads_variable},
            {"too_much_dynamic_shared", too_much_dynamic_shared},
            {"too_much_shared_together", too_much_shared_together}};
}

} // namespace tessera::emulation
