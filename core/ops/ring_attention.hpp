// SPDX-License-Identifier: Apache-2.0
// Attention on ranks that hold zig-zag shards of the sequence: keys and values travel around the ring of the ranks
// (Liu et al. 2023), and what a rank's queries see of each shard is merged. No rank ever holds the whole sequence.
#pragma once

#include "core/graph/op.hpp"

namespace tessera {

// As attention and its gradient, of parts along the ring's axis; the sequence is a multiple of 2 `ranks`.
std::shared_ptr<const Op> make_ring_attention(int axis, int ranks, bool causal);          // qkv -> y, log_sum_exp
std::shared_ptr<const Op> make_ring_attention_gradient(int axis, int ranks, bool causal); // see attention.cpp

// What attention and ring attention have in common. qkv: (B, T, 3, H, D)
double attention_product_flops(const Shape& qkv, bool causal);  // of one product
std::vector<TensorType> attention_types(const TensorType& qkv); // of y and log_sum_exp; ConfigError for another shape

} // namespace tessera
