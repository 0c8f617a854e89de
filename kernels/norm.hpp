// SPDX-License-Identifier: Apache-2.0
// Layer norm and root-mean-square norm over rows, alone or of a sum that is made in the same pass, with their
// gradients.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>

// x, y, dx, dy: (R, C), all f32, bf16 or f16    scale, bias, dscale, dbias: (C) f32    mean, rstd: (R) f32
// C is the count of `scale`; the other views may have any shape with the right count, else InternalError.
// A bias or dbias whose data is null stands for a norm without bias. Gradients are overwritten; dx may be dy's memory.
// Statistics and sums are fp32. The workspace holds norm_gradient_workspace_bytes bytes, of any shape and type.
namespace tessera::kernels {

// mean[r] = mean_c(x[r,:])   rstd[r] = 1 / sqrt(mean_c((x[r,:] - mean[r])^2) + epsilon)
// y[r,c] = (x[r,c] - mean[r]) * rstd[r] * scale[c] + bias[c]
void layer_norm(CpuStream& stream, ConstView x, ConstView scale, ConstView bias, float epsilon, View y, View mean,
                View rstd);
void layer_norm(CudaStream& stream, ConstView x, ConstView scale, ConstView bias, float epsilon, View y, View mean,
                View rstd);

// With h = (x - mean) * rstd:   dscale[c] = sum_r dy[r,c] * h[r,c]   dbias[c] = sum_r dy[r,c]
// dx = rstd * (dy * scale - mean_c(dy * scale) - h * mean_c(dy * scale * h))
void layer_norm_gradient(CpuStream& stream, ConstView x, ConstView scale, ConstView mean, ConstView rstd, ConstView dy,
                         View dx, View dscale, View dbias, View workspace);
void layer_norm_gradient(CudaStream& stream, ConstView x, ConstView scale, ConstView mean, ConstView rstd, ConstView dy,
                         View dx, View dscale, View dbias, View workspace);

// rstd[r] = 1 / sqrt(mean_c(x[r,:]^2) + epsilon)   y[r,c] = x[r,c] * rstd[r] * scale[c]
void rms_norm(CpuStream& stream, ConstView x, ConstView scale, float epsilon, View y, View rstd);
void rms_norm(CudaStream& stream, ConstView x, ConstView scale, float epsilon, View y, View rstd);

// With h = x * rstd:   dscale[c] = sum_r dy[r,c] * h[r,c]   dx = rstd * (dy * scale - h * mean_c(dy * scale * h))
void rms_norm_gradient(CpuStream& stream, ConstView x, ConstView scale, ConstView rstd, ConstView dy, View dx,
                       View dscale, View workspace);
void rms_norm_gradient(CudaStream& stream, ConstView x, ConstView scale, ConstView rstd, ConstView dy, View dx,
                       View dscale, View workspace);

// sum = a + b, rounded to its type, and the norm of it in the same pass: the bits of add and then the norm.
// a, b, sum: as x; sum may be a's or b's memory
void add_layer_norm(CpuStream& stream, ConstView a, ConstView b, ConstView scale, ConstView bias, float epsilon,
                    View sum, View y, View mean, View rstd);
void add_layer_norm(CudaStream& stream, ConstView a, ConstView b, ConstView scale, ConstView bias, float epsilon,
                    View sum, View y, View mean, View rstd);
void add_rms_norm(CpuStream& stream, ConstView a, ConstView b, ConstView scale, float epsilon, View sum, View y,
                  View rstd);
void add_rms_norm(CudaStream& stream, ConstView a, ConstView b, ConstView scale, float epsilon, View sum, View y,
                  View rstd);

// The norm's gradient plus dsum, which reaches the sum by other ways: dx is the gradient of a and of b.
// dsum: as dy; dx may be its memory, too
void add_layer_norm_gradient(CpuStream& stream, ConstView sum, ConstView scale, ConstView mean, ConstView rstd,
                             ConstView dy, ConstView dsum, View dx, View dscale, View dbias, View workspace);
void add_layer_norm_gradient(CudaStream& stream, ConstView sum, ConstView scale, ConstView mean, ConstView rstd,
                             ConstView dy, ConstView dsum, View dx, View dscale, View dbias, View workspace);
void add_rms_norm_gradient(CpuStream& stream, ConstView sum, ConstView scale, ConstView rstd, ConstView dy,
                           ConstView dsum, View dx, View dscale, View workspace);
void add_rms_norm_gradient(CudaStream& stream, ConstView sum, ConstView scale, ConstView rstd, ConstView dy,
                           ConstView dsum, View dx, View dscale, View workspace);

// Depends on the sizes only, never on the number of threads.
std::int64_t norm_gradient_workspace_bytes(const CpuStream& stream, std::int64_t rows, std::int64_t columns);
std::int64_t norm_gradient_workspace_bytes(const CudaStream& stream, std::int64_t rows, std::int64_t columns);

} // namespace tessera::kernels
