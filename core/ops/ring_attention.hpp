// SPDX-License-Identifier: Apache-2.0
// Attention on ranks that hold zig-zag shards of the sequence: keys and values travel around the ring of the ranks
// (Liu et al. 2023), and what a rank's queries see of each shard is merged. No rank ever holds the whole sequence.
#pragma once

#include "core/graph/op.hpp"
#include "kernels/attention.hpp"

namespace tessera {

// As attention and its gradient, of parts along the ring's axis; the sequence is a multiple of 2 `ranks`.
// qkv -> y, log_sum_exp
std::shared_ptr<const Op> make_ring_attention(int axis, int ranks, bool causal, bool by_group = false);
// see attention.cpp
std::shared_ptr<const Op> make_ring_attention_gradient(int axis, int ranks, bool causal, bool by_group = false);

// What attention and ring attention have in common. qkv: (B, T, 3, H, D), or by group (B, T, G, H / G + 2, D)
kernels::AttentionShape attention_shape(const Shape& qkv, bool causal, bool by_group);
double attention_product_flops(const kernels::AttentionShape& shape); // of one product
// Of y and log_sum_exp; ConfigError for another shape.
std::vector<TensorType> attention_types(const TensorType& qkv, bool by_group);
// Where the heads are, or groups of them, in qkv.
inline int head_dim_of(bool by_group) { return by_group ? 2 : 3; }
// Where time is in log_sum_exp: (B, H, T), or by group (B, G, H / G, T).
inline int score_time_dim(bool by_group) { return by_group ? 3 : 2; }

} // namespace tessera
