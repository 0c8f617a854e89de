// SPDX-License-Identifier: Apache-2.0
// The cross entropy of probabilities on the GPU: a warp takes a row, its lanes every 32nd logit.
#include "kernels/soft_cross_entropy.hpp"

#include "kernels/cuda/launch.cuh"

#include <limits>

namespace tessera::kernels {
namespace {

constexpr int warps = 4; // of a block
constexpr float lowest = std::numeric_limits<float>::lowest();

// dlogits may be the logits' memory: each lane overwrites what it alone reads.
template <class T> __global__ void __launch_bounds__(32 * warps)
    soft_cross_entropy_kernel(const T* logits, const float* __restrict__ probabilities, const float* __restrict__ scale,
                              float smoothing, std::int64_t rows, std::int64_t columns, std::int64_t classes,
                              float* __restrict__ losses, T* dlogits) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
    if (r >= rows) return;
    const T* row = logits + r * columns;
    const float* wanted = probabilities + r * classes;
    float maximum = lowest;
    for (std::int64_t c = lane; c < classes; c += 32)
        maximum = fmaxf(maximum, cuda::to_float(row[c]));
    maximum = cuda::warp_max(maximum);
    float powers = 0, all = 0, below_wanted = 0, below = 0;
    for (std::int64_t c = lane; c < classes; c += 32) {
        const float logit = cuda::to_float(row[c]);
        powers += expf(logit - maximum);
        all += wanted[c];
        below_wanted += wanted[c] * (maximum - logit);
        below += maximum - logit;
    }
    powers = cuda::warp_sum(powers);
    all = cuda::warp_sum(all);
    below_wanted = cuda::warp_sum(below_wanted);
    below = cuda::warp_sum(below);
    const float share = smoothing / static_cast<float>(classes) * all;
    if (lane == 0) losses[r] = all * logf(powers) + (1 - smoothing) * below_wanted + share * below;
    const float factor = *scale * all / powers;
    for (std::int64_t c = lane; c < columns; c += 32) {
        float value = 0;
        if (c < classes) {
            const float q = (1 - smoothing) * wanted[c] + share;
            value = expf(cuda::to_float(row[c]) - maximum) * factor - q * *scale;
        }
        dlogits[r * columns + c] = cuda::from_float<T>(value);
    }
}

} // namespace

void soft_cross_entropy_with_gradient(CudaStream& stream, std::int64_t classes, float smoothing, ConstView logits,
                                      ConstView probabilities, ConstView scale, View losses, View dlogits) {
    constexpr const char* kernel = "soft_cross_entropy_with_gradient";
    const std::int64_t rows = losses.count();
    const std::int64_t columns = rows == 0 ? classes : logits.count() / rows;
    check_row_classes(kernel, classes, columns);
    check_count(kernel, "logits", logits, rows * columns);
    check_count(kernel, "probabilities", probabilities, rows * classes);
    check_count(kernel, "scale", scale, 1);
    check_count(kernel, "dlogits", dlogits, logits.count());
    cuda::with_float_type(kernel, logits.dtype, [&]<class T>() {
        cuda::launch(kernel, stream, soft_cross_entropy_kernel<T>, cuda::blocks(rows, warps), 32 * warps, 0,
                     cuda::pointer<T>(logits), cuda::pointer<float>(probabilities), cuda::pointer<float>(scale),
                     smoothing, rows, columns, classes, cuda::pointer<float>(losses), cuda::pointer<T>(dlogits));
    });
}

} // namespace tessera::kernels
