// SPDX-License-Identifier: Apache-2.0
// Attention (kernels/attention.hpp) of queries over the keys of another sequence, within segments, with a bias by
// distance: what encoders with padding, packed documents and T5 (Raffel et al. 2020) need beyond the plain one.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

namespace tessera::kernels {

struct CrossAttentionShape {
    std::int64_t batch, queries, keys, heads, kv_heads, head_dim; // B, T, S, H, G, D; H a multiple of G
    float scale = 1;
    bool causal = false; // query t sees keys [0, t]
    bool packed = false; // T = S, and queries, keys and values lie in one tensor
    bool segments = false, bias = false;
    bool by_group = false; // packed: as AttentionShape's

    std::int64_t group() const { return heads / kv_heads; }
    std::int64_t q_heads() const { return packed ? heads + 2 * kv_heads : heads; } // heads of a token in q
    std::int64_t q_count() const { return batch * queries * q_heads() * head_dim; }
    std::int64_t kv_count() const { return packed ? 0 : batch * keys * 2 * kv_heads * head_dim; }
    std::int64_t y_count() const { return batch * queries * heads * head_dim; }
    std::int64_t row_count() const { return batch * heads * queries; }
    std::int64_t distances() const { return queries + keys - 1; }
    std::int64_t bias_count() const { return heads * distances(); }
};

// Views that the shape says are not there are empty.
struct CrossAttentionInputs {
    ConstView q, kv{}; // (B, T, H, D) and (B, S, 2, G, D); packed: (B, T, H + 2G, D), as attention's qkv
    ConstView segments{}, key_segments{}; // (B, T) and (B, S), i32
    ConstView bias{};                     // (T + S - 1, H), f32
};

// y[b,t,h,:] = sum_s p[t,s] v[b,s,g,:]    p[t,:] = softmax over s of scale * <q[b,t,h,:], k[b,s,g,:]> + bias[s - t + T
// - 1, h], over the keys whose segment is the query's. A query that sees no key has y = 0 and log_sum_exp below -1e29.
//   y: (B, T, H, D)   log_sum_exp: (B, H, T), f32
// Types, sums, bits and errors are attention's; on a GPU fp32 multiplies, also in bf16.
std::int64_t cross_attention_workspace_bytes(const CpuStream& stream, const CrossAttentionShape& shape, DType dtype);
std::int64_t cross_attention_workspace_bytes(const CudaStream& stream, const CrossAttentionShape& shape, DType dtype);
void cross_attention(CpuStream& stream, const CrossAttentionShape& shape, const CrossAttentionInputs& in, View y,
                     View log_sum_exp, View workspace);
void cross_attention(CudaStream& stream, const CrossAttentionShape& shape, const CrossAttentionInputs& in, View y,
                     View log_sum_exp, View workspace);

// The gradients of the loss with respect to q, kv and bias, as these, overwritten, given dy. That of the bias sums over
// the sequences and, within each, over the queries, in an order that depends on the sizes alone.
struct CrossAttentionGradients {
    View q, kv{}, bias{};
};
std::int64_t cross_attention_gradient_workspace_bytes(const CpuStream& stream, const CrossAttentionShape& shape,
                                                      DType dtype);
std::int64_t cross_attention_gradient_workspace_bytes(const CudaStream& stream, const CrossAttentionShape& shape,
                                                      DType dtype);
void cross_attention_gradient(CpuStream& stream, const CrossAttentionShape& shape, const CrossAttentionInputs& in,
                              ConstView y, ConstView dy, ConstView log_sum_exp, const CrossAttentionGradients& out,
                              View workspace);
void cross_attention_gradient(CudaStream& stream, const CrossAttentionShape& shape, const CrossAttentionInputs& in,
                              ConstView y, ConstView dy, ConstView log_sum_exp, const CrossAttentionGradients& out,
                              View workspace);

// What the kernels of both machines check first; each throws InternalError.
void check_cross_attention(const CrossAttentionShape& shape, DType dtype);
void check_cross_attention(const CrossAttentionShape& shape, const CrossAttentionInputs& in, const ConstView& y,
                           const ConstView& log_sum_exp);
void check_cross_attention_gradient(const CrossAttentionShape& shape, const CrossAttentionInputs& in,
                                    const ConstView& y, const ConstView& dy, const ConstView& log_sum_exp,
                                    const CrossAttentionGradients& out);

} // namespace tessera::kernels
