// SPDX-License-Identifier: Apache-2.0
// The cross entropy with weights of classes and smoothed labels (Szegedy et al. 2016), alone and with its gradient.
#pragma once

#include "kernels/cross_entropy.hpp"

// As cross_entropy: logits, dlogits: (N, W), targets: (N) i32, losses: (N) f32, V = `classes` <= W.
// class_weights: (V) f32, or null: ones. The wanted probabilities of a row with the target t are
//   q[v] = (1 - smoothing) * class_weights[t] * (v == t) + smoothing / V * class_weights[v]
// so that with weights a loss is, as PyTorch's sum, no mean: the weights of the targets that count are what to divide
// by.
namespace tessera::kernels {

// losses[n] = sum_v q[v] * (log(sum_u exp(logits[n,u])) - logits[n,v])
void smoothed_cross_entropy(CpuStream& stream, std::int64_t classes, float smoothing, ConstView logits,
                            ConstView targets, ConstView class_weights, View losses);
void smoothed_cross_entropy(CudaStream& stream, std::int64_t classes, float smoothing, ConstView logits,
                            ConstView targets, ConstView class_weights, View losses);

// The same losses, and dlogits[n,v] = scale * (softmax(logits[n,:])[v] * sum_u q[u] - q[v]).
// scale: one f32, read when the kernel runs. dlogits may be the logits' memory.
void smoothed_cross_entropy_with_gradient(CpuStream& stream, std::int64_t classes, float smoothing, ConstView logits,
                                          ConstView targets, ConstView class_weights, ConstView scale, View losses,
                                          View dlogits);
void smoothed_cross_entropy_with_gradient(CudaStream& stream, std::int64_t classes, float smoothing, ConstView logits,
                                          ConstView targets, ConstView class_weights, ConstView scale, View losses,
                                          View dlogits);

} // namespace tessera::kernels
