// SPDX-License-Identifier: Apache-2.0
// Losses of numbers against those that are wanted, each with its own, alone and together with their gradient.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>

namespace tessera::kernels {

// f(y, t), with e = y - t:
//   squared   e^2
//   absolute  |e|                                                     (slope 0 at e = 0)
//   huber     e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2)   (Huber 1964)
//   binary    (1 - t) y + (1 + (p - 1) t) log(1 + exp(-y))            y: a logit, t in [0, 1], p: positive_weight
struct PointwiseLoss {
    enum class Kind { squared, absolute, huber, binary };
    Kind kind = Kind::squared;
    float delta = 1;
    float positive_weight = 1;
};

// y, dy: (N, K), both f32, bf16 or f16    targets: (N, K) f32    losses: (N) f32
// N is the count of `losses`. A loss is the mean over `count` numbers, of which the K may be a part. Sums over K go in
// an order that K alone decides.

// losses[n] = sum_k f(y[n,k], targets[n,k]) / count
void pointwise_loss(CpuStream& stream, const PointwiseLoss& loss, std::int64_t count, ConstView y, ConstView targets,
                    View losses);
void pointwise_loss(CudaStream& stream, const PointwiseLoss& loss, std::int64_t count, ConstView y, ConstView targets,
                    View losses);

// The same losses, and dy[n,k] = scale * f'(y[n,k], targets[n,k]) / count.
// scale: one f32, read when the kernel runs. dy may be y's memory.
void pointwise_loss_with_gradient(CpuStream& stream, const PointwiseLoss& loss, std::int64_t count, ConstView y,
                                  ConstView targets, ConstView scale, View losses, View dy);
void pointwise_loss_with_gradient(CudaStream& stream, const PointwiseLoss& loss, std::int64_t count, ConstView y,
                                  ConstView targets, ConstView scale, View losses, View dy);

} // namespace tessera::kernels
