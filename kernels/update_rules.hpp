// SPDX-License-Identifier: Apache-2.0
// Optimizer steps with one state or two beside the weight: Adagrad, RMSProp, Lion. As update.hpp's: any number of
// tensors in a call, element by element, f32; factor 0 changes nothing.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <span>

namespace tessera::kernels {

// One view per tensor; states are 0 before the first step. `second` is looked at where it is said so.
struct RuleTensors {
    std::span<const View> gradients, weights, first, second;
};

// Duchi, Hazan and Singer 2011. first: the sum of squares.
// g = factor * gradient + weight_decay * w   s += g^2   w -= learning_rate * g / (sqrt(s) + epsilon)
struct Adagrad {
    float epsilon = 1e-10f;
    float weight_decay = 0;
};
void adagrad(CpuStream& stream, const Adagrad& settings, ConstView learning_rate, ConstView factor,
             const RuleTensors& tensors);
void adagrad(CudaStream& stream, const Adagrad& settings, ConstView learning_rate, ConstView factor,
             const RuleTensors& tensors);

// Tieleman and Hinton 2012, with epsilon and momentum as PyTorch has them. first: the mean of squares; second, with
// momentum: the velocity.
// g = factor * gradient + weight_decay * w   s += (1 - alpha) * (g^2 - s)   d = g / (sqrt(s) + epsilon)
// velocity = momentum * velocity + d   w -= learning_rate * velocity; without momentum the velocity is d.
struct RmsProp {
    float alpha = 0.99f;
    float epsilon = 1e-8f;
    float weight_decay = 0;
    float momentum = 0;
};
void rmsprop(CpuStream& stream, const RmsProp& settings, ConstView learning_rate, ConstView factor,
             const RuleTensors& tensors);
void rmsprop(CudaStream& stream, const RmsProp& settings, ConstView learning_rate, ConstView factor,
             const RuleTensors& tensors);

// Chen et al. 2023, algorithm 2. first: the momentum.
// g = factor * gradient   c = m + (1 - beta1) * (g - m)   w -= learning_rate * (sign(c) + weight_decay * w)
// m += (1 - beta2) * (g - m)
struct Lion {
    float beta1 = 0.9f;
    float beta2 = 0.99f;
    float weight_decay = 0;
};
void lion(CpuStream& stream, const Lion& settings, ConstView learning_rate, ConstView factor,
          const RuleTensors& tensors);
void lion(CudaStream& stream, const Lion& settings, ConstView learning_rate, ConstView factor,
          const RuleTensors& tensors);

} // namespace tessera::kernels
