// SPDX-License-Identifier: Apache-2.0
// What encoders make of token ids before anything is embedded: masked tokens and their places, segments, types, shifts.
#pragma once

#include "kernels/draw.hpp"
#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <array>
#include <cstdint>

namespace tessera::kernels {

// All tensors are i32; B samples of T tokens. InternalError for views of another size.
struct MaskTokens {
    std::uint64_t stream = 0;                            // of the random key
    std::int64_t samples = 0, tokens = 0, chosen = 0;    // B, T, K
    std::int32_t mask = 0, below = 1;                    // the mask's id; random tokens are below
    std::array<std::int32_t, 4> kept = {-1, -1, -1, -1}; // ids that are never chosen: padding, separators
};

// The masked language model's task (Devlin et al. 2019): of each sample's tokens that may be chosen the share K / T,
// rounded (halves up) and at least one, is, by chance; of these 80 % become the mask, 10 % a random token and 10 %
// stay. Targets beyond them are -1.
//   tokens, masked: (B, T)   slots: (B, T), a chosen token's place among the targets, else -1   targets: (B, K)
//   draws: (B, draw_words), whose sample and step key the numbers   workspace: B T i32
void mask_tokens(CpuStream& stream, const MaskTokens& how, ConstView draws, ConstView tokens, View masked, View slots,
                 View targets, View workspace);
void mask_tokens(CudaStream& stream, const MaskTokens& how, ConstView draws, ConstView tokens, View masked, View slots,
                 View targets, View workspace);

// segments[i] = 0 where tokens[i] is the padding, else 1: with them attention keeps both apart. One count.
void token_segments(CpuStream& stream, std::int32_t padding, ConstView tokens, View segments);
void token_segments(CudaStream& stream, std::int32_t padding, ConstView tokens, View segments);

// types[b,t] = the number of separators among tokens[b,:t], at most `last`.
void token_types(CpuStream& stream, std::int32_t separator, std::int32_t last, ConstView tokens, View types);
void token_types(CudaStream& stream, std::int32_t separator, std::int32_t last, ConstView tokens, View types);

// y[b,0] = first, y[b,t] = tokens[b,t-1], and `first` in place of what is below 0.
void shift_tokens(CpuStream& stream, std::int32_t first, ConstView tokens, View y);
void shift_tokens(CudaStream& stream, std::int32_t first, ConstView tokens, View y);

// What both machines check first.
void check_mask_tokens(const MaskTokens& how, const ConstView& draws, const ConstView& tokens, const ConstView& masked,
                       const ConstView& slots, const ConstView& targets, const ConstView& workspace);

} // namespace tessera::kernels
