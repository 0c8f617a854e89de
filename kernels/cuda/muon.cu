// SPDX-License-Identifier: Apache-2.0
// Muon's elementwise parts on the GPU: a thread for each element.
#include "kernels/muon.hpp"

#include "kernels/cuda/launch.cuh"

namespace tessera::kernels {
namespace {

constexpr int threads = 256;

__device__ __forceinline__ std::int64_t index_of_thread() {
    return static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
}

__global__ void __launch_bounds__(threads)
    direction_kernel(float momentum, const float* __restrict__ factor, const float* __restrict__ gradient,
                     std::int64_t count, float* __restrict__ velocity, float* __restrict__ direction) {
    const std::int64_t i = index_of_thread();
    if (i >= count) return;
    if (*factor == 0) {
        direction[i] = 0;
        return;
    }
    const float g = __fmul_rn(*factor, gradient[i]), v = fmaf(momentum, velocity[i], g);
    velocity[i] = v;
    direction[i] = fmaf(momentum, v, g);
}

// y may be x's memory.
__global__ void __launch_bounds__(threads)
    divide_kernel(const float* x, const float* __restrict__ square_sum, std::int64_t count, float* y) {
    const std::int64_t i = index_of_thread();
    if (i < count) y[i] = x[i] * (1 / (sqrtf(*square_sum) + 1e-7f));
}

__global__ void __launch_bounds__(threads)
    step_kernel(MuonStep settings, const float* __restrict__ learning_rate, const float* __restrict__ factor,
                const float* __restrict__ direction, std::int64_t count, float* __restrict__ weight) {
    const std::int64_t i = index_of_thread();
    if (i >= count || *factor == 0) return;
    const float way = fmaf(settings.weight_decay, weight[i], __fmul_rn(settings.scale, direction[i]));
    weight[i] = fmaf(-*learning_rate, way, weight[i]);
}

} // namespace

void muon_direction(CudaStream& stream, float momentum, ConstView factor, ConstView gradient, View velocity,
                    View direction) {
    check_count("muon_direction", "factor", factor, 1);
    check_count("muon_direction", "velocity", velocity, gradient.count());
    check_count("muon_direction", "direction", direction, gradient.count());
    cuda::launch("muon_direction", stream, direction_kernel, cuda::blocks(gradient.count(), threads), threads, 0,
                 momentum, cuda::pointer<float>(factor), cuda::pointer<float>(gradient), gradient.count(),
                 cuda::pointer<float>(velocity), cuda::pointer<float>(direction));
}

void divide_by_norm(CudaStream& stream, ConstView x, ConstView square_sum, View y) {
    check_count("divide_by_norm", "square_sum", square_sum, 1);
    check_count("divide_by_norm", "y", y, x.count());
    cuda::launch("divide_by_norm", stream, divide_kernel, cuda::blocks(x.count(), threads), threads, 0,
                 cuda::pointer<float>(x), cuda::pointer<float>(square_sum), x.count(), cuda::pointer<float>(y));
}

void muon_step(CudaStream& stream, const MuonStep& settings, ConstView learning_rate, ConstView factor,
               ConstView direction, View weight) {
    check_count("muon_step", "learning_rate", learning_rate, 1);
    check_count("muon_step", "factor", factor, 1);
    check_count("muon_step", "direction", direction, weight.count());
    cuda::launch("muon_step", stream, step_kernel, cuda::blocks(weight.count(), threads), threads, 0, settings,
                 cuda::pointer<float>(learning_rate), cuda::pointer<float>(factor), cuda::pointer<float>(direction),
                 weight.count(), cuda::pointer<float>(weight));
}

} // namespace tessera::kernels
