// SPDX-License-Identifier: Apache-2.0
// The judgement of a step on the GPU: one block, of which the first thread decides.
#include "kernels/cuda/launch.cuh"
#include "kernels/divergence.hpp"
#include "kernels/divergence_check.hpp"

#include <cfloat>

namespace tessera::kernels {
namespace {

constexpr int threads = 128;

struct StatePointers {
    float* losses;
    float* norms;
    float* good_steps;
    float* skipped_steps;
};

__device__ bool is_finite(float value) { return fabsf(value) <= FLT_MAX; }

// The means of both windows, and their deviations, in every thread.
__device__ void spreads_of(const StatePointers& state, int window, float2& mean, float2& deviation) {
    const float count = static_cast<float>(window);
    float2 sum = make_float2(0, 0), squares = make_float2(0, 0);
    for (int i = static_cast<int>(threadIdx.x); i < window; i += threads)
        sum = make_float2(sum.x + state.losses[i], sum.y + state.norms[i]);
    sum = cuda::block_sums(sum.x, sum.y);
    mean = make_float2(sum.x / count, sum.y / count);
    for (int i = static_cast<int>(threadIdx.x); i < window; i += threads) {
        const float loss = state.losses[i] - mean.x, norm = state.norms[i] - mean.y;
        squares = make_float2(squares.x + loss * loss, squares.y + norm * norm);
    }
    squares = cuda::block_sums(squares.x, squares.y);
    deviation = make_float2(sqrtf(squares.x / count), sqrtf(squares.y / count));
}

__global__ void judge_step_kernel(const float* loss, const float* norm, const float* factor, DivergenceLimits limits,
                                  StatePointers state, int window, float* kept, float* verdict) {
    float2 mean, deviation;
    spreads_of(state, window, mean, deviation);
    if (threadIdx.x != 0) return;
    const float of_loss = *loss, of_norm = *norm, logarithm = logf(fmaxf(of_norm, FLT_MIN)),
                good_steps = *state.good_steps;
    float scores[] = {0, 0};
    int wrong = 0;
    *kept = *factor;
    const bool judged = !(limits.scaled && *factor == 0);
    if (judged) wrong = (is_finite(of_loss) ? 0 : loss_not_finite) | (is_finite(of_norm) ? 0 : norm_not_finite);
    if (judged && wrong == 0 && limits.z_score > 0 && good_steps >= static_cast<float>(window)) {
        scores[0] = (of_loss - mean.x) / fmaxf(fmaxf(deviation.x, 1e-3f * fabsf(mean.x)), FLT_MIN);
        scores[1] = (logarithm - mean.y) / fmaxf(deviation.y, 1e-3f);
        wrong = (scores[0] > limits.z_score ? loss_outlier : 0) | (scores[1] > limits.z_score ? norm_outlier : 0);
    }
    verdict[0] = static_cast<float>(wrong);
    verdict[1] = scores[0];
    verdict[2] = scores[1];
    if (wrong != 0) {
        *kept = 0;
        *state.skipped_steps += 1;
    } else if (judged) {
        const int place = static_cast<int>(good_steps) % window;
        state.losses[place] = of_loss;
        state.norms[place] = logarithm;
        *state.good_steps =
            good_steps + 1 < static_cast<float>(2 * window) ? good_steps + 1 : static_cast<float>(window);
    }
}

} // namespace

void judge_step(CudaStream& stream, ConstView loss, ConstView norm, ConstView factor, const DivergenceLimits& limits,
                const DivergenceState& state, View kept, View verdict) {
    check_judgement(loss, norm, factor, state, kept, verdict);
    const StatePointers pointers{cuda::pointer<float>(state.losses), cuda::pointer<float>(state.norms),
                                 cuda::pointer<float>(state.good_steps), cuda::pointer<float>(state.skipped_steps)};
    cuda::launch("judge_step", stream, judge_step_kernel, 1, threads, 0, cuda::pointer<float>(loss),
                 cuda::pointer<float>(norm), cuda::pointer<float>(factor), limits, pointers,
                 static_cast<int>(state.losses.count()), cuda::pointer<float>(kept), cuda::pointer<float>(verdict));
}

} // namespace tessera::kernels
