// SPDX-License-Identifier: Apache-2.0
// The place of the largest logit on the GPU: a warp takes a row, and of what its lanes found the first of the largest.
#include "kernels/accuracy.hpp"

#include "kernels/cuda/launch.cuh"

#include <limits>

namespace tessera::kernels {
namespace {

constexpr int warps = 4; // of a block

template <class T> __global__ void __launch_bounds__(32 * warps)
    accuracy_kernel(const T* __restrict__ logits, const std::int32_t* __restrict__ targets, std::int64_t rows,
                    std::int64_t columns, float* __restrict__ hits) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
    if (row >= rows) return;
    float largest = -std::numeric_limits<float>::infinity();
    int place = 0;
    for (std::int64_t c = lane; c < columns; c += 32) {
        const float logit = cuda::to_float(logits[row * columns + c]);
        if (!(logit > largest)) continue;
        largest = logit;
        place = static_cast<int>(c);
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(cuda::all_lanes, largest, distance);
        const int there = __shfl_xor_sync(cuda::all_lanes, place, distance);
        const bool takes = other > largest || (other == largest && there < place);
        largest = takes ? other : largest;
        place = takes ? there : place;
    }
    if (lane == 0) hits[row] = place == targets[row] ? 1.0f : 0.0f;
}

} // namespace

void accuracy(CudaStream& stream, ConstView logits, ConstView targets, View hits) {
    const std::int64_t rows = targets.count(), columns = rows == 0 ? 0 : logits.count() / rows;
    check_count("accuracy", "logits", logits, rows * columns);
    check_count("accuracy", "hits", hits, rows);
    cuda::with_float_type("accuracy", logits.dtype, [&]<class T>() {
        cuda::launch("accuracy", stream, accuracy_kernel<T>, cuda::blocks(rows, warps), 32 * warps, 0,
                     cuda::pointer<T>(logits), cuda::pointer<std::int32_t>(targets), rows, columns,
                     cuda::pointer<float>(hits));
    });
}

} // namespace tessera::kernels
