// SPDX-License-Identifier: Apache-2.0
// What encoders, and models of two sequences, are built from beside core/ops/ops.hpp, in its way.
#pragma once

#include "core/ops/ops.hpp"

#include <array>

namespace tessera {

// What attention has beyond the plain one (kernels/cross_attention.hpp).
struct CrossAttentionForm {
    bool cross = false; // keys and values of another sequence
    bool segments = false, bias = false, causal = false;
    double scale = 0;      // of the scores; 0: 1 / sqrt(D)
    bool by_group = false; // heads share keys, which lie beside them; neither cross nor bias
};

// How tokens are masked (kernels/tokens.hpp).
struct TokenMask {
    std::int64_t chosen = 1;                             // of a sample
    std::int32_t mask = 0, below = 1;                    // the mask's id; random tokens are below
    std::array<std::int32_t, 4> kept = {-1, -1, -1, -1}; // ids that are never chosen
};

namespace ops {

// Attention within equal segments and with a bias added to the scores of each distance; values may be no_value but q.
// q: (B, T, 1, H, D)   kv: (B, S, 2, H, D); none: q is attention's qkv, (B, T, 3, H, D) or by group   y: as attention's
// segments: (B, T) i32   key_segments: (B, S) i32, with kv   bias: (T + S - 1, H) f32, of key - query + T - 1
struct CrossAttentionInputs {
    ValueId q, kv = no_value, segments = no_value, key_segments = no_value, bias = no_value;
};
ValueId cross_attention(Graph&, std::string name, const CrossAttentionInputs& in, bool causal, double scale = 0,
                        bool by_group = false);
// The masked language model's task: tokens (B, T) i32 -> masked (B, T), slots (B, T), targets (B, K)
struct MaskedTokens {
    ValueId masked, slots, targets; // slots: a chosen token's place among the targets, else -1
};
// Drawn by the number of a sample among all that were read so far, of which each step has as many, and steps before may
// have had more or fewer (ModelSizes::samples_ahead): by sample and epoch, and not by how they are cut into batches.
MaskedTokens mask_tokens(Graph&, std::string name, ValueId tokens, const TokenMask& how, std::int64_t samples_per_step,
                         std::int64_t samples_ahead = 0);
// y[b,slots[b,i],:] = row i of sample b, 0 elsewhere; a slot of -1 drops the row.
// x: (B, ..., C), R rows in a sample   slots: (B, R) i32, each place once   y: (B, places, C)
ValueId place_rows(Graph&, std::string name, ValueId x, ValueId slots, std::int64_t places);
// y[b,0] = first, y[b,t] = tokens[b,t-1], or `first` where that is below 0: (B, T) i32
ValueId shift_tokens(Graph&, std::string name, ValueId tokens, std::int32_t first);
// 0 where a token is padding, else 1: (B, T) i32
ValueId token_segments(Graph&, std::string name, ValueId tokens, std::int32_t padding);
// How many separators stand before a token, below `types`: (B, T) i32
ValueId token_types(Graph&, std::string name, ValueId tokens, std::int32_t separator, std::int32_t types);

} // namespace ops

OpPointer make_cross_attention(const CrossAttentionForm& form);
OpPointer make_mask_tokens(const TokenMask& how, std::string_view stream_name);
OpPointer make_place_rows(std::int64_t places);
OpPointer make_shift_tokens(std::int32_t first);
OpPointer make_token_segments(std::int32_t padding);
OpPointer make_token_types(std::int32_t separator, std::int32_t types);

} // namespace tessera
