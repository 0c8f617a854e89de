// SPDX-License-Identifier: Apache-2.0
// What Muon does to elements; products of matrices are matmul.hpp's. All views are f32.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

namespace tessera::kernels {

// g = factor * gradient   velocity = momentum * velocity + g   direction = g + momentum * velocity (Nesterov's)
// factor: one f32; where it is 0 the velocity stays, and the direction is 0.
void muon_direction(CpuStream& stream, float momentum, ConstView factor, ConstView gradient, View velocity,
                    View direction);
void muon_direction(CudaStream& stream, float momentum, ConstView factor, ConstView gradient, View velocity,
                    View direction);

// y = x / (sqrt(square_sum) + 1e-7)     square_sum: one f32
void divide_by_norm(CpuStream& stream, ConstView x, ConstView square_sum, View y);
void divide_by_norm(CudaStream& stream, ConstView x, ConstView square_sum, View y);

struct MuonStep {
    float scale = 1; // of the direction
    float weight_decay = 0;
};

// w -= learning_rate * (scale * direction + weight_decay * w), unless factor is 0. learning_rate, factor: one f32 each.
void muon_step(CpuStream& stream, const MuonStep& settings, ConstView learning_rate, ConstView factor,
               ConstView direction, View weight);
void muon_step(CudaStream& stream, const MuonStep& settings, ConstView learning_rate, ConstView factor,
               ConstView direction, View weight);

} // namespace tessera::kernels
