// SPDX-License-Identifier: Apache-2.0
// Attention over the keys of two sets from attention over each.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

namespace tessera::kernels {

// Queries [first, first + tokens) of `all_tokens`, in each of B sequences and H heads of D numbers.
struct AttentionPart {
    std::int64_t batch, tokens, heads, head_dim; // B, t, H, D
    std::int64_t first, all_tokens;              // and T
};

// What these queries have seen so far, sum and log_sum_exp, takes in what they see of other keys (Dao 2023, section
// 2.3): with l = log_sum_exp, l' = that of the part and L = log(e^l + e^l'),
//   sum = e^(l - L) sum + e^(l' - L) y    log_sum_exp = L
//   y: (B, t, H, D), f32, bf16 or f16   part_log_sum_exp: (B, H, t), f32   sum: (B, T, H, D), f32
//   log_sum_exp: (B, H, T), f32
// InternalError for views of another size. A NaN in either stays one.
void attention_merge(CpuStream& stream, const AttentionPart& part, ConstView y, ConstView part_log_sum_exp, View sum,
                     View log_sum_exp);
void attention_merge(CudaStream& stream, const AttentionPart& part, ConstView y, ConstView part_log_sum_exp, View sum,
                     View log_sum_exp);

// What the kernels of both machines check first.
void check_attention_merge(const AttentionPart& part, const ConstView& y, const ConstView& part_log_sum_exp,
                           const ConstView& sum, const ConstView& log_sum_exp);

} // namespace tessera::kernels
