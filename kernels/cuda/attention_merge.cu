// SPDX-License-Identifier: Apache-2.0
// Merges partial attention on the GPU: a warp for each row of a head.
#include "kernels/attention_merge.hpp"
#include "kernels/cuda/launch.cuh"

namespace tessera::kernels {
namespace {

constexpr int threads = 256, warps = threads / 32;

template <class T> __global__ void __launch_bounds__(threads)
    merge_kernel(AttentionPart part, const T* __restrict__ y, const float* __restrict__ logarithms, float* sum,
                 float* all_logarithms) {
    const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * warps + threadIdx.x / 32; // of (B, t, H)
    if (row >= part.batch * part.tokens * part.heads) return;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const std::int64_t b = row / (part.tokens * part.heads), t = row / part.heads % part.tokens;
    const std::int64_t h = row % part.heads, sequence = b * part.heads + h;
    float* const logarithm = all_logarithms + sequence * part.all_tokens + part.first + t;
    const float old = *logarithm, added = logarithms[sequence * part.tokens + t];
    const float largest = fmaxf(old, added);
    const float joined = largest + logf(expf(old - largest) + expf(added - largest));
    const float old_share = expf(old - joined), new_share = expf(added - joined);
    float* const to = sum + ((b * part.all_tokens + part.first + t) * part.heads + h) * part.head_dim;
    for (std::int64_t d = lane; d < part.head_dim; d += 32)
        to[d] = to[d] * old_share + cuda::to_float(y[row * part.head_dim + d]) * new_share;
    __syncwarp(); // all lanes have read the old one
    if (lane == 0) *logarithm = joined;
}

} // namespace

void attention_merge(CudaStream& stream, const AttentionPart& part, ConstView y, ConstView part_log_sum_exp, View sum,
                     View log_sum_exp) {
    check_attention_merge(part, y, part_log_sum_exp, sum, log_sum_exp);
    cuda::with_float_type("attention_merge", y.dtype, [&]<class T>() {
        cuda::launch("attention_merge", stream, merge_kernel<T>,
                     cuda::blocks(part.batch * part.tokens * part.heads, warps), threads, 0, part, cuda::pointer<T>(y),
                     cuda::pointer<float>(part_log_sum_exp), cuda::pointer<float>(sum),
                     cuda::pointer<float>(log_sum_exp));
    });
}

} // namespace tessera::kernels
