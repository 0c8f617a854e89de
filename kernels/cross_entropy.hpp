// SPDX-License-Identifier: Apache-2.0
// The cross entropy of logits and class numbers, alone and together with its gradient.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>

// logits, dlogits: (N, W), both f32, bf16 or f16    targets: (N) i32    losses: (N) f32
// N is the count of `targets`. V = `classes`: the first columns of a row; the rest is padding, which is not read and
// gets the gradient 0. A target is a class in [0, V), or ignore_index: such a row has loss 0 and gradient 0.
// Any other target is a ConfigError that names the target, its position and V. It is thrown before anything is written,
// or by CudaStream::wait, when what was written is of no use. A logit may be -infinity, but not all of a row.
namespace tessera::kernels {

inline constexpr std::int32_t ignore_index = -1;

// losses[n] = log(sum_v exp(logits[n,v])) - logits[n,targets[n]]
void cross_entropy(CpuStream& stream, std::int64_t classes, ConstView logits, ConstView targets, View losses);
void cross_entropy(CudaStream& stream, std::int64_t classes, ConstView logits, ConstView targets, View losses);

// The same losses, and dlogits[n,v] = scale * (softmax(logits[n,:])[v] - (v == targets[n])).
// scale: one f32, read when the kernel runs. dlogits may be the logits' memory.
void cross_entropy_with_gradient(CpuStream& stream, std::int64_t classes, ConstView logits, ConstView targets,
                                 ConstView scale, View losses, View dlogits);
void cross_entropy_with_gradient(CudaStream& stream, std::int64_t classes, ConstView logits, ConstView targets,
                                 ConstView scale, View losses, View dlogits);

} // namespace tessera::kernels
