// SPDX-License-Identifier: Apache-2.0
// The cross entropy of logits and probabilities of classes, such as those of mixed samples, with its gradient.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>

// logits, dlogits: (N, W), both f32, bf16 or f16, finite    probabilities: (N, V) f32    losses: (N) f32
// V = `classes` <= W: the first columns of a row of logits; the rest is padding, which is not read and gets the
// gradient 0. With s = sum_v probabilities[n,v], which is 1, or 0 for a row that does not count, what is wanted of a
// row is
//   q[v] = (1 - smoothing) * probabilities[n,v] + smoothing / V * s
// scale: one f32, read when the kernel runs. dlogits may be the logits' memory.
namespace tessera::kernels {

// losses[n] = sum_v q[v] * (log(sum_u exp(logits[n,u])) - logits[n,v])
// dlogits[n,v] = scale * (softmax(logits[n,:])[v] * s - q[v])
void soft_cross_entropy_with_gradient(CpuStream& stream, std::int64_t classes, float smoothing, ConstView logits,
                                      ConstView probabilities, ConstView scale, View losses, View dlogits);
void soft_cross_entropy_with_gradient(CudaStream& stream, std::int64_t classes, float smoothing, ConstView logits,
                                      ConstView probabilities, ConstView scale, View losses, View dlogits);

} // namespace tessera::kernels
