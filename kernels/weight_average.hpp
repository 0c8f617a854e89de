// SPDX-License-Identifier: Apache-2.0
// The running average of weights, and its exchange with them.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <span>

// Any number of tensors in a call, element by element: one view per tensor in each list, all f32 with the tensor's
// count. Views of a list do not overlap with those of the other.
namespace tessera::kernels {

// average += share * (weight - average); where the share is 1 it is the weight, to the bit. share, factor: one f32
// each, read when the kernel runs. Where the factor is 0 the call changes nothing.
void average_weights(CpuStream& stream, ConstView share, ConstView factor, std::span<const View> weights,
                     std::span<const View> averages);
void average_weights(CudaStream& stream, ConstView share, ConstView factor, std::span<const View> weights,
                     std::span<const View> averages);

// Each has what the other had.
void exchange(CpuStream& stream, std::span<const View> one, std::span<const View> other);
void exchange(CudaStream& stream, std::span<const View> one, std::span<const View> other);

} // namespace tessera::kernels
