// SPDX-License-Identifier: Apache-2.0
// Softmax attention of each head, fused: no (T, T) tensor is kept, neither forward nor for the gradient.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

namespace tessera::kernels {

// One call's sizes. H query heads share G heads of keys and values, H / G neighbours each ("grouped-query attention",
// Ainslie et al. 2023); G = H is attention as it was, G = 1 one head of keys for all.
struct AttentionShape {
    std::int64_t batch, tokens, heads, kv_heads, head_dim; // B, T, H, G, D
    float scale = 1;                                       // of the scores
    bool causal = false;
    // qkv is (B, T, G, H / G + 2, D): for each head of keys the heads of q that share it, then k, then v.
    bool by_group = false;

    std::int64_t group() const { return heads / kv_heads; } // query heads that share one head of keys
    std::int64_t qkv_heads() const { return heads + 2 * kv_heads; }
    std::int64_t qkv_count() const { return batch * tokens * qkv_heads() * head_dim; }
    std::int64_t y_count() const { return batch * tokens * heads * head_dim; }
    std::int64_t row_count() const { return batch * heads * tokens; } // rows of scores
};

// y[b,t,h,:] = sum_s p[t,s] v[b,s,g,:]    p[t,:] = softmax over s of scale * <q[b,t,h,:], k[b,s,g,:]>    g = h / (H/G)
// With `causal`, s runs over [0, t], otherwise over [0, T). log_sum_exp[b,h,t] is the logarithm of the softmax's
// denominator, which the gradient needs to find p again.
//   qkv: (B, T, H + 2G, D), first the heads of q, then those of k, then those of v   (G = H: (B, T, 3, H, D)), or
//   by group
//   y: (B, T, H, D)   log_sum_exp: (B, H, T), f32
// qkv and y are all f32, all bf16 or all f16; sums are taken in fp32 (on a GPU, p is rounded to 16 bits before it meets
// v of 16 bits). The views may have any shape with the right count. D is at most 256; fastest are multiples of 16 on a
// CPU, and 16 bits with D = 32, 64, 96 or 128 on a GPU (kernels/cuda/attention_variants.hpp has the ways to do it
// there). The bits do not depend on the number of threads. `workspace` is of any dtype, aligned to 64 bytes. Throws
// InternalError for a wrong size or dtype.
std::int64_t attention_workspace_bytes(const CpuStream& stream, const AttentionShape& shape, DType dtype);
std::int64_t attention_workspace_bytes(const CudaStream& stream, const AttentionShape& shape, DType dtype);
void attention(CpuStream& stream, const AttentionShape& shape, ConstView qkv, View y, View log_sum_exp, View workspace);
void attention(CudaStream& stream, const AttentionShape& shape, ConstView qkv, View y, View log_sum_exp,
               View workspace);

// dqkv = the gradient of the loss with respect to qkv, given dy: that with respect to y.
//   dqkv: as qkv, overwritten   dy: as y   the rest as attention took and gave it
// The heads of a group add to the gradient of their keys and values in the order of the heads.
std::int64_t attention_gradient_workspace_bytes(const CpuStream& stream, const AttentionShape& shape, DType dtype);
std::int64_t attention_gradient_workspace_bytes(const CudaStream& stream, const AttentionShape& shape, DType dtype);
void attention_gradient(CpuStream& stream, const AttentionShape& shape, ConstView qkv, ConstView y, ConstView dy,
                        ConstView log_sum_exp, View dqkv, View workspace);
void attention_gradient(CudaStream& stream, const AttentionShape& shape, ConstView qkv, ConstView y, ConstView dy,
                        ConstView log_sum_exp, View dqkv, View workspace);

// What the kernels of both machines check first; each throws InternalError.
void check_attention(const AttentionShape& shape, DType dtype);
void check_attention(const AttentionShape& shape, const ConstView& qkv, const ConstView& y,
                     const ConstView& log_sum_exp);
void check_attention_gradient(const AttentionShape& shape, const ConstView& qkv, const ConstView& y,
                              const ConstView& dy, const ConstView& log_sum_exp, const ConstView& dqkv);

} // namespace tessera::kernels
