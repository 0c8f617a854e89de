// SPDX-License-Identifier: Apache-2.0
// Which targets count in a loss, how much, and what a mean over them alone makes of a step's gradient.
#pragma once

#include "kernels/cross_entropy.hpp"

namespace tessera::kernels {

// y[n] = targets[n], but ignore_index where that is `left_out`. Both (N) i32; y may be the targets' memory.
void leave_out(CpuStream& stream, std::int32_t left_out, ConstView targets, View y);
void leave_out(CudaStream& stream, std::int32_t left_out, ConstView targets, View y);

// weights[n] = class_weights[targets[n]], or 1 without class weights; 0 where the target is ignore_index.
// targets: (N) i32   class_weights: (V) f32 or null   weights: (N) f32. A target beyond V weighs 0: cross_entropy
// names it.
void target_weights(CpuStream& stream, ConstView targets, ConstView class_weights, View weights);
void target_weights(CudaStream& stream, ConstView targets, ConstView class_weights, View weights);

// Where a step's gradient is of its loss over `units`, and the mean is over what `counted` weighs: ratio = units /
// counted, mean_loss = loss * ratio (still a sum over units), true_square_sum = square_sum * ratio^2. Where nothing
// counts, all are 0: a step that changes nothing. One f32 each.
struct CountedMean {
    ConstView counted, loss, square_sum;
    View ratio, mean_loss, true_square_sum;
};
void mean_over_counted(CpuStream& stream, float units, const CountedMean& of);
void mean_over_counted(CudaStream& stream, float units, const CountedMean& of);

// product = a * b. One f32 each; product may be either's memory.
void multiply_scalars(CpuStream& stream, ConstView a, ConstView b, View product);
void multiply_scalars(CudaStream& stream, ConstView a, ConstView b, View product);

} // namespace tessera::kernels
