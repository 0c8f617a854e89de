// SPDX-License-Identifier: Apache-2.0
// Adafactor (Shazeer and Stern 2018): the mean square of each element of a gradient as a product of what its row and
// its column have. All views are f32; gradient: (R, C), of whose rows the first `counted` count, those behind being
// padding.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>

namespace tessera::kernels {

// What changes from step to step.
struct AdafactorPace {
    float learning_rate;
    float share; // of a step's squares in what is kept: step^-power, 1 in the first
};
inline constexpr std::int64_t adafactor_pace_count = sizeof(AdafactorPace) / sizeof(float);

struct AdafactorMatrix {
    std::int64_t rows = 0, counted = 0, columns = 0;
};

// What is kept of a matrix, and the mean of `rows` over those that count, one f32.
struct AdafactorSquares {
    View rows, columns, mean; // (R), (C), ()
};

// s = (factor * gradient)^2 + 1e-30   rows += share * (mean_c s - rows)   columns += share * (mean_r s - columns)
// factor: one f32; where it is 0, rows and columns stay.
void adafactor_squares(CpuStream& stream, const AdafactorMatrix& of, ConstView pace, ConstView factor,
                       ConstView gradient, const AdafactorSquares& squares);
void adafactor_squares(CudaStream& stream, const AdafactorMatrix& of, ConstView pace, ConstView factor,
                       ConstView gradient, const AdafactorSquares& squares);

// direction[r,c] = factor * gradient[r,c] / sqrt(rows[r] / mean * columns[c]); 0 where factor is, and in padding
void adafactor_direction(CpuStream& stream, const AdafactorMatrix& of, ConstView factor, ConstView gradient,
                         const AdafactorSquares& squares, View direction);
void adafactor_direction(CudaStream& stream, const AdafactorMatrix& of, ConstView factor, ConstView gradient,
                         const AdafactorSquares& squares, View direction);

struct AdafactorStep {
    float elements = 1;  // of the whole tensor, without padding
    float threshold = 1; // a direction whose root mean square is larger is scaled down to it
    float weight_decay = 0;
};

// With the root mean squares w of the weights, at least 1e-3, and d of the directions, of which the sums of squares are
// given as one f32 each:
//   weight -= learning_rate * (w / max(1, d / threshold) * direction + weight_decay * weight), unless factor is 0
void adafactor_step(CpuStream& stream, const AdafactorStep& settings, ConstView pace, ConstView factor,
                    ConstView weight_squares, ConstView direction_squares, ConstView direction, View weight);
void adafactor_step(CudaStream& stream, const AdafactorStep& settings, ConstView pace, ConstView factor,
                    ConstView weight_squares, ConstView direction_squares, ConstView direction, View weight);

} // namespace tessera::kernels
