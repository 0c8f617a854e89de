// SPDX-License-Identifier: Apache-2.0
// Optimizer steps (Adam, AdamW, SGD) in one pass over memory, and the factor that clips a gradient to a norm.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>

// All views f32 with one count, except the scalars. Semantics are PyTorch's, and an element's new value does not depend
// on how the tensor is cut into views. low_precision_copy: bf16, receives the new weight; null data means that there is
// none.
namespace tessera::kernels {

// norm = sqrt(square_sum)   factor = min(1, max_norm / (norm + 1e-6)), or 1 when max_norm <= 0; NaN stays NaN.
void clip_factor(CpuStream& stream, ConstView square_sum, float max_norm, View norm, View factor);
void clip_factor(CudaStream& stream, ConstView square_sum, float max_norm, View norm, View factor);

struct Adam {
    float learning_rate = 1e-3f;
    float beta1 = 0.9f;
    float beta2 = 0.999f;
    float epsilon = 1e-8f;
    float weight_decay = 0;
    bool decoupled =
        true; // AdamW: the weight shrinks by learning_rate * weight_decay; else the decay joins the gradient
    std::int64_t step = 1; // counts from 1, for the bias correction
};

// g = factor * gradient   m += (1 - beta1) * (g - m)   v += (1 - beta2) * (g^2 - v)
// w -= learning_rate / (1 - beta1^step) * m / (sqrt(v / (1 - beta2^step)) + epsilon)
void adam(CpuStream& stream, const Adam& settings, ConstView gradient, ConstView factor, View weight, View first_moment,
          View second_moment, View low_precision_copy);
void adam(CudaStream& stream, const Adam& settings, ConstView gradient, ConstView factor, View weight,
          View first_moment, View second_moment, View low_precision_copy);

struct Sgd {
    float learning_rate = 1e-2f;
    float momentum = 0;
    float weight_decay = 0;
    bool nesterov = false;
    bool first_step = false; // velocity is overwritten by the gradient instead of read
};

// g = factor * gradient + weight_decay * w   velocity = momentum * velocity + g
// w -= learning_rate * (nesterov ? g + momentum * velocity : velocity); without momentum the velocity is g and not
// stored.
void sgd(CpuStream& stream, const Sgd& settings, ConstView gradient, ConstView factor, View weight, View velocity,
         View low_precision_copy);
void sgd(CudaStream& stream, const Sgd& settings, ConstView gradient, ConstView factor, View weight, View velocity,
         View low_precision_copy);

} // namespace tessera::kernels
