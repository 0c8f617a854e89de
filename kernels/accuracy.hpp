// SPDX-License-Identifier: Apache-2.0
// Which rows of logits are right about their class.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

// logits: (N, V) f32, bf16 or f16    targets: (N) i32    hits: (N) f32
// N is the count of `targets`.
namespace tessera::kernels {

// hits[n] = 1 where the largest of logits[n,:], of equals the first, is number targets[n], else 0. A NaN is never the
// largest; any target that is no class is never hit.
void accuracy(CpuStream& stream, ConstView logits, ConstView targets, View hits);
void accuracy(CudaStream& stream, ConstView logits, ConstView targets, View hits);

} // namespace tessera::kernels
