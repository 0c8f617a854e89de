// SPDX-License-Identifier: Apache-2.0
// The scale of the loss on the GPU: one thread.
#include "kernels/cuda/launch.cuh"
#include "kernels/loss_scale.hpp"

#include <cfloat>

namespace tessera::kernels {
namespace {

struct StatePointers {
    float* scale;
    float* good_steps;
    float* skipped_steps;
};

__global__ void unscale_kernel(const float* square_sum, float max_norm, LossScaling scaling, StatePointers state,
                               float* norm, float* factor) {
    const float scale = *state.scale, sum = *square_sum;
    const float length = sqrtf(sum) / scale, wanted = max_norm / (length + 1e-6f);
    *norm = length;
    if (!(sum <= FLT_MAX)) { // infinite or NaN
        *factor = 0;
        *state.skipped_steps += 1;
        *state.scale = scale * scaling.backoff;
        *state.good_steps = 0;
        return;
    }
    *factor = (max_norm <= 0 || wanted > 1 ? 1.0f : wanted) / scale;
    const float good_steps = *state.good_steps + 1;
    const bool grows = good_steps >= static_cast<float>(scaling.interval);
    *state.good_steps = grows ? 0 : good_steps;
    if (grows) *state.scale = fminf(scale * scaling.growth, largest_loss_scale);
}

} // namespace

void unscale(CudaStream& stream, ConstView square_sum, float max_norm, const LossScaling& scaling,
             const LossScaleState& state, View norm, View factor) {
    for (const ConstView& one : {square_sum, ConstView(norm), ConstView(factor), ConstView(state.scale),
                                 ConstView(state.good_steps), ConstView(state.skipped_steps)})
        check_count("unscale", "a scalar", one, 1);
    const StatePointers pointers{cuda::pointer<float>(state.scale), cuda::pointer<float>(state.good_steps),
                                 cuda::pointer<float>(state.skipped_steps)};
    cuda::launch("unscale", stream, unscale_kernel, 1, 1, 0, cuda::pointer<float>(square_sum), max_norm, scaling,
                 pointers, cuda::pointer<float>(norm), cuda::pointer<float>(factor));
}

} // namespace tessera::kernels
