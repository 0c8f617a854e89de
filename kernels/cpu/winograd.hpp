// SPDX-License-Identifier: Apache-2.0
// Convolutions of 3 x 3 in f32 by Winograd's minimal filtering F(2 x 2, 3 x 3) (Lavin and Gray 2016): 16 products where
// there were 36. What convolution.cpp takes for the passes where that is faster. Operands are checked.
#pragma once

#include "kernels/cpu/convolution_pass.hpp"
#include "kernels/stream.hpp"

namespace tessera::kernels {

// Whether a pass, and of the forward pass the gradient of its weights, too, is made here.
bool is_winograd(const Pass& pass);

std::int64_t winograd_pass_workspace_bytes(const CpuStream& stream, const Pass& pass);
// bias: (target channels), or null. `memory` holds the workspace, aligned to 64 bytes.
void winograd_pass(CpuStream& stream, const Pass& pass, const float* source, const PackWeights& pack, const float* bias,
                   float* target, std::byte* memory);

std::int64_t winograd_weight_gradient_workspace_bytes(const CpuStream& stream, const Pass& forward);
// dw: (filters, taps).
void winograd_weight_gradient(CpuStream& stream, const Pass& forward, const float* dy, const float* x, float* dw,
                              std::byte* memory);

} // namespace tessera::kernels
