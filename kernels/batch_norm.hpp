// SPDX-License-Identifier: Apache-2.0
// Batch normalisation (Ioffe and Szegedy 2015) in steps between which ranks can add up what each has summed over its
// rows.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>

// x, y, dx, dy: (R, C), all f32, bf16 or f16    everything else is f32: sums, squares, scale, bias, mean, variance: (C)
// dsums: (2, C)   moments: (3, C). C is the count of `sums`; the other views may have any shape with the right count,
// else InternalError. `rows` are those of the whole, of which x may be a part: the sums are over all of them. dx may be
// dy's memory, y that of x. Results depend on the sizes only, never on the number of threads. A workspace holds
// batch_norm_workspace_bytes bytes for the rows of x, of any shape and type.
namespace tessera::kernels {

// squares[c] = sum over the rows of x of (x[r,c] - sums[c] / rows)^2, where sums[c] = sum_r x[r,c] (sum_rows,
// reduce.hpp)
void centered_squares(CpuStream& stream, ConstView x, ConstView sums, std::int64_t rows, View squares, View workspace);
void centered_squares(CudaStream& stream, ConstView x, ConstView sums, std::int64_t rows, View squares, View workspace);

// With mean = sums / rows and rstd = 1 / sqrt(squares / rows + epsilon):
// y[r,c] = (x[r,c] - mean[c]) * rstd[c] * scale[c] + bias[c]
// With given statistics: those are sums and squares of one row.
void batch_norm(CpuStream& stream, ConstView x, ConstView sums, ConstView squares, std::int64_t rows, ConstView scale,
                ConstView bias, float epsilon, View y);
void batch_norm(CudaStream& stream, ConstView x, ConstView sums, ConstView squares, std::int64_t rows, ConstView scale,
                ConstView bias, float epsilon, View y);

// With h = (x - mean) * rstd:   dsums[0,c] = sum_r dy[r,c] * h[r,c], which is dscale   dsums[1,c] = sum_r dy[r,c],
// dbias
void batch_norm_gradient_sums(CpuStream& stream, ConstView dy, ConstView x, ConstView sums, ConstView squares,
                              std::int64_t rows, float epsilon, View dsums, View workspace);
void batch_norm_gradient_sums(CudaStream& stream, ConstView dy, ConstView x, ConstView sums, ConstView squares,
                              std::int64_t rows, float epsilon, View dsums, View workspace);

// dx = scale * rstd * (dy - dsums[1] / rows - h * dsums[0] / rows)
void batch_norm_gradient(CpuStream& stream, ConstView dy, ConstView x, ConstView sums, ConstView squares,
                         std::int64_t rows, ConstView scale, ConstView dsums, float epsilon, View dx);
void batch_norm_gradient(CudaStream& stream, ConstView dy, ConstView x, ConstView sums, ConstView squares,
                         std::int64_t rows, ConstView scale, ConstView dsums, float epsilon, View dx);

// Depends on the sizes only.
std::int64_t batch_norm_workspace_bytes(const CpuStream& stream, std::int64_t rows, std::int64_t columns);
std::int64_t batch_norm_workspace_bytes(const CudaStream& stream, std::int64_t rows, std::int64_t columns);

// moments[0] = sums / rows, the mean   moments[1] = squares / max(rows - 1, 1), the unbiased variance   moments[2] = 1
// What is added up of several batches is so many times their mean, and how many they were.
void batch_moments(CpuStream& stream, ConstView sums, ConstView squares, std::int64_t rows, View moments);
void batch_moments(CudaStream& stream, ConstView sums, ConstView squares, std::int64_t rows, View moments);

// Where moments[2] and the factor (one f32) are not 0:   mean += momentum * (moments[0] / moments[2] - mean), and so
// the variance with moments[1]. A factor of 0 is of a step that is to change nothing (kernels/divergence.hpp).
void running_statistics(CpuStream& stream, ConstView moments, ConstView factor, float momentum, View mean,
                        View variance);
void running_statistics(CudaStream& stream, ConstView moments, ConstView factor, float momentum, View mean,
                        View variance);

} // namespace tessera::kernels
