// SPDX-License-Identifier: Apache-2.0
// Optimizer steps (Adam, AdamW, SGD; others in update_rules.hpp) in one pass over memory, and the factor that clips a
// gradient to a norm.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>
#include <span>

// A step updates any number of tensors with the same settings, element by element: a new value depends neither on how
// many there are nor on how a tensor is cut into views. Semantics are PyTorch's. Lists have one view per tensor, all
// f32 with the tensor's count. Low precision copies are bf16 and receive the new weight; an empty list or a null view
// means that there is none. factor: one f32, read when the kernel runs; where it is 0 the call changes nothing.
namespace tessera::kernels {

// norm = sqrt(square_sum)   factor = min(1, max_norm / (norm + 1e-6)), or 1 when max_norm <= 0; 0 where
// the norm is not finite: a step that changes nothing.
void clip_factor(CpuStream& stream, ConstView square_sum, float max_norm, View norm, View factor);
void clip_factor(CudaStream& stream, ConstView square_sum, float max_norm, View norm, View factor);

struct Adam {
    float beta1 = 0.9f;
    float beta2 = 0.999f;
    float epsilon = 1e-8f;
    float weight_decay = 0;
    bool decoupled =
        true; // AdamW: the weight shrinks by learning_rate * weight_decay; else the decay joins the gradient
};

// What changes from step to step lies in memory, so that a recorded step can be replayed. Written on the host, in
// double and then rounded. step: counts from 1, for the bias correction.
struct AdamPace {
    float shrink;      // of the weight, for a decoupled decay
    float step_size;   // learning rate / (1 - beta1^step)
    float root_factor; // 1 / sqrt(1 - beta2^step)
};
inline constexpr std::int64_t adam_pace_count = sizeof(AdamPace) / sizeof(float);
void write_adam_pace(View host, const Adam& settings, float learning_rate, std::int64_t step);

struct AdamTensors {
    std::span<const View> gradients, weights, first_moments, second_moments, low_precision_copies;
};

// g = factor * gradient   m += (1 - beta1) * (g - m)   v += (1 - beta2) * (g^2 - v)
// w -= learning_rate / (1 - beta1^step) * m / (sqrt(v / (1 - beta2^step)) + epsilon)
// pace: read when the kernel runs.
void adam(CpuStream& stream, const Adam& settings, ConstView pace, ConstView factor, const AdamTensors& tensors);
void adam(CudaStream& stream, const Adam& settings, ConstView pace, ConstView factor, const AdamTensors& tensors);

struct Sgd {
    float momentum = 0;
    float weight_decay = 0;
    bool nesterov = false;
};

struct SgdTensors {
    std::span<const View> gradients, weights;
    std::span<const View> velocities; // 0 before the first step; without momentum: not looked at
    std::span<const View> low_precision_copies;
};

// g = factor * gradient + weight_decay * w   velocity = momentum * velocity + g
// w -= learning_rate * (nesterov ? g + momentum * velocity : velocity); without momentum the velocity is g and not
// stored. learning_rate: one f32, read when the kernel runs.
void sgd(CpuStream& stream, const Sgd& settings, ConstView learning_rate, ConstView factor, const SgdTensors& tensors);
void sgd(CudaStream& stream, const Sgd& settings, ConstView learning_rate, ConstView factor, const SgdTensors& tensors);

} // namespace tessera::kernels
