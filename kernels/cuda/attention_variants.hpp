// SPDX-License-Identifier: Apache-2.0
// The ways to run attention on a GPU, and the choice. Nothing of CUDA in here, so that tests can call each way.
#pragma once

#include "kernels/attention.hpp"
#include "kernels/cross_attention.hpp"

namespace tessera::kernels {

enum class AttentionVariant {
    fastest, // our tensor-core kernel where it can; on a stream that is to tune, cuDNN's where that is faster
    general, // multiply-adds in fp32 for any D, dtype and alignment
    library, // cuDNN's where it has one that gives the same bits in each run, else the fastest of ours
};

// kernels/attention.hpp with a chosen variant, and what that wants of workspace.
std::int64_t attention_workspace_bytes(const CudaStream& stream, AttentionVariant variant, const AttentionShape& shape,
                                       DType dtype);
std::int64_t attention_gradient_workspace_bytes(const CudaStream& stream, AttentionVariant variant,
                                                const AttentionShape& shape, DType dtype);
void attention(CudaStream& stream, AttentionVariant variant, const AttentionShape& shape, ConstView qkv, View y,
               View log_sum_exp, View workspace);
void attention_gradient(CudaStream& stream, AttentionVariant variant, const AttentionShape& shape, ConstView qkv,
                        ConstView y, ConstView dy, ConstView log_sum_exp, View dqkv, View workspace);

// Checked operands. deltas: (B, H, T), f32, sum over D of dy * y.
void attention_general(CudaStream& stream, const AttentionShape& shape, ConstView qkv, View y, View log_sum_exp);
void attention_gradient_general(CudaStream& stream, const AttentionShape& shape, ConstView qkv, ConstView dy,
                                ConstView log_sum_exp, ConstView deltas, View dqkv);

// The same beyond the plain one. dbias: bias_gradient_count(shape), f32.
void cross_attention_general(CudaStream& stream, const CrossAttentionShape& shape, const CrossAttentionInputs& in,
                             View y, View log_sum_exp);
std::int64_t bias_gradient_count(const CrossAttentionShape& shape);
void cross_attention_gradient_general(CudaStream& stream, const CrossAttentionShape& shape,
                                      const CrossAttentionInputs& in, ConstView dy, ConstView log_sum_exp,
                                      ConstView deltas, const CrossAttentionGradients& out, View dbias);

// For bf16 and f16, D a multiple of 8 up to 128, a scale above 0, and views aligned to 16 bytes.
void attention_on_tensor_cores(CudaStream& stream, const AttentionShape& shape, ConstView qkv, View y,
                               View log_sum_exp);
void attention_gradient_on_tensor_cores(CudaStream& stream, const AttentionShape& shape, ConstView qkv, ConstView dy,
                                        ConstView log_sum_exp, ConstView deltas, View dqkv);

} // namespace tessera::kernels
