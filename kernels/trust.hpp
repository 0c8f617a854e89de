// SPDX-License-Identifier: Apache-2.0
// Optimizer steps whose size is in proportion to the norm of each tensor: LAMB and LARS. As update.hpp's: any number of
// tensors in a call, f32, each a part of its whole; factor 0 changes nothing. Norms come from outside, as sums of
// squares over whole tensors, one f32 for each tensor in the order of the lists.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>
#include <span>

namespace tessera::kernels {

struct TrustTensors {
    std::span<const View> gradients, weights;
    std::span<const View> first, second; // states, 0 before the first step; of LARS the velocity alone
};

// You et al. 2020, algorithm 2, with Adam's moments and their bias correction.
struct Lamb {
    float beta1 = 0.9f;
    float beta2 = 0.999f;
    float epsilon = 1e-6f;
    float weight_decay = 0;
};

// What changes from step to step. Written on the host, in double and then rounded. step: counts from 1.
struct LambPace {
    float learning_rate;
    float first_factor; // 1 / (1 - beta1^step)
    float root_factor;  // 1 / sqrt(1 - beta2^step)
};
inline constexpr std::int64_t lamb_pace_count = sizeof(LambPace) / sizeof(float);
void write_lamb_pace(View host, const Lamb& settings, float learning_rate, std::int64_t step);

// g = factor * gradient   m += (1 - beta1) (g - m)   v += (1 - beta2) (g^2 - v)
// gradient = m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + epsilon) + weight_decay * w: the direction, in its
// place
void lamb_direction(CpuStream& stream, const Lamb& settings, ConstView pace, ConstView factor,
                    const TrustTensors& tensors);
void lamb_direction(CudaStream& stream, const Lamb& settings, ConstView pace, ConstView factor,
                    const TrustTensors& tensors);

// w -= learning_rate * |w| / |direction| * direction; without a ratio where a norm is 0, or `adapts` is false.
// gradients: the directions. weight_squares, direction_squares: (tensors) f32.
void lamb_step(CpuStream& stream, bool adapts, ConstView pace, ConstView factor, ConstView weight_squares,
               ConstView direction_squares, const TrustTensors& tensors);
void lamb_step(CudaStream& stream, bool adapts, ConstView pace, ConstView factor, ConstView weight_squares,
               ConstView direction_squares, const TrustTensors& tensors);

// You, Gitman and Ginsburg 2017.
struct Lars {
    float momentum = 0.9f;
    float weight_decay = 0;
    float trust = 1e-3f; // the coefficient
};

// g = factor * gradient   local = trust * |w| / (|g| + weight_decay * |w|), 1 where a norm is 0 or `adapts` is false
// velocity = momentum * velocity + local * (g + weight_decay * w)   w -= learning_rate * velocity
// gradient_squares: of the gradients before the factor.
void lars(CpuStream& stream, const Lars& settings, bool adapts, ConstView learning_rate, ConstView factor,
          ConstView weight_squares, ConstView gradient_squares, const TrustTensors& tensors);
void lars(CudaStream& stream, const Lars& settings, bool adapts, ConstView learning_rate, ConstView factor,
          ConstView weight_squares, ConstView gradient_squares, const TrustTensors& tensors);

} // namespace tessera::kernels
