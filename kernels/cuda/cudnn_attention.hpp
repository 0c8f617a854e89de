// SPDX-License-Identifier: Apache-2.0
// Attention and its gradient by cuDNN's fused engines (bf16 and f16).
#pragma once

#include "kernels/attention.hpp"
#include "kernels/cuda/cudnn.hpp"

namespace tessera::cuda {

// Whether the heads lie as the library can be told: one distance from head to head.
bool attention_fits_cudnn(const kernels::AttentionShape& shape, DType dtype);

// The names of the graphs' tensors in memory. `deltas`: (B, H, T), f32, which the gradient writes and reads again.
namespace attention_name {
inline constexpr std::int64_t q = 1, k = 2, v = 3, y = 4, log_sum_exp = 5, dy = 6, dq = 7, dk = 8, dv = 9, deltas = 10;
}

// As kernels/library_choices.hpp has what is asked.
enum class AttentionPart { forward, gradient };
struct AskedAttention {
    AttentionPart part;
    DType dtype;
    kernels::AttentionShape shape;
};
ChoiceWords asked_words(AttentionPart part, const kernels::AttentionShape& shape, DType dtype);
AskedAttention asked_attention(const ChoiceWords& words);

CudnnGraph attention_graph(const kernels::AttentionShape& shape, DType dtype);
CudnnGraph attention_gradient_graph(const kernels::AttentionShape& shape, DType dtype);

// Bytes that a plan may have. The gradient that gives the same bits in each run keeps all scores of a call in 16 bits;
// where heads share keys, also each head's gradients of them.
inline constexpr std::int64_t attention_plan_bytes = 4096;
std::int64_t attention_gradient_plan_bytes(const kernels::AttentionShape& shape);

// Does it, as run_by_cudnn says; checked operands. Workspaces are aligned to cudnn_workspace_alignment.
bool attention_by_cudnn(CudaStream& stream, const kernels::AttentionShape& shape, const ConstView& qkv, const View& y,
                        const View& log_sum_exp, void* workspace, const std::function<void()>& otherwise);
bool attention_gradient_by_cudnn(CudaStream& stream, const kernels::AttentionShape& shape, const ConstView& qkv,
                                 const ConstView& y, const ConstView& dy, const ConstView& log_sum_exp,
                                 const View& dqkv, const View& deltas, void* workspace,
                                 const std::function<void()>& otherwise);

} // namespace tessera::cuda
