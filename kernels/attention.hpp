// SPDX-License-Identifier: Apache-2.0
// Softmax attention of each head, fused: no (T, T) tensor is kept, neither forward nor for the gradient.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

namespace tessera::kernels {

// y[b,t,h,:] = sum_s p[t,s] v[b,s,h,:]      p[t,:] = softmax over s of scale * <q[b,t,h,:], k[b,s,h,:]>
// With `causal`, s runs over [0, t], otherwise over [0, T). log_sum_exp[b,h,t] is the logarithm of the softmax's
// denominator, which the gradient needs to find p again.
//   qkv: (B, T, 3, H, D) (q, k and v)   y: (B, T, H, D)   log_sum_exp: (B, H, T), f32
// qkv and y are both f32 or both bf16; sums are taken in fp32. y and log_sum_exp may have any shape with the right
// count. D is at most 256 (fastest for multiples of 16). The bits do not depend on the number of threads. `workspace`
// is of any dtype, aligned to 64 bytes. Throws InternalError for a wrong size or dtype.
std::int64_t attention_workspace_bytes(const CpuStream& stream, const Shape& qkv, DType dtype);
std::int64_t attention_workspace_bytes(const CudaStream& stream, const Shape& qkv, DType dtype);
void attention(CpuStream& stream, ConstView qkv, float scale, bool causal, View y, View log_sum_exp, View workspace);
void attention(CudaStream& stream, ConstView qkv, float scale, bool causal, View y, View log_sum_exp, View workspace);

// dqkv = the gradient of the loss with respect to qkv, given dy: that with respect to y.
//   dqkv: (B, T, 3, H, D), overwritten   dy: (B, T, H, D)   the rest as attention took and gave it
std::int64_t attention_gradient_workspace_bytes(const CpuStream& stream, const Shape& qkv, DType dtype);
std::int64_t attention_gradient_workspace_bytes(const CudaStream& stream, const Shape& qkv, DType dtype);
void attention_gradient(CpuStream& stream, ConstView qkv, ConstView y, ConstView dy, ConstView log_sum_exp, float scale,
                        bool causal, View dqkv, View workspace);
void attention_gradient(CudaStream& stream, ConstView qkv, ConstView y, ConstView dy, ConstView log_sum_exp,
                        float scale, bool causal, View dqkv, View workspace);

} // namespace tessera::kernels
