// SPDX-License-Identifier: Apache-2.0
// The squared error of numbers against those that are wanted, alone and together with its gradient.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>

// y, dy: (N, K), both f32, bf16 or f16    targets: (N, K) f32    losses: (N) f32
// N is the count of `losses`. A loss is the mean over `count` numbers, of which the K may be a part. Sums over K go in
// an order that K alone decides.
namespace tessera::kernels {

// losses[n] = sum_k (y[n,k] - targets[n,k])^2 / count
void squared_error(CpuStream& stream, std::int64_t count, ConstView y, ConstView targets, View losses);
void squared_error(CudaStream& stream, std::int64_t count, ConstView y, ConstView targets, View losses);

// The same losses, and dy[n,k] = scale * 2 * (y[n,k] - targets[n,k]) / count.
// scale: one f32, read when the kernel runs. dy may be y's memory.
void squared_error_with_gradient(CpuStream& stream, std::int64_t count, ConstView y, ConstView targets, ConstView scale,
                                 View losses, View dy);
void squared_error_with_gradient(CudaStream& stream, std::int64_t count, ConstView y, ConstView targets,
                                 ConstView scale, View losses, View dy);

} // namespace tessera::kernels
