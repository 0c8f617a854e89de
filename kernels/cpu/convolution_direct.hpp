// SPDX-License-Identifier: Apache-2.0
// Convolutions in f32 whose tiles read the image itself: nothing is gathered, at most an image is copied with the zeros
// around it. What convolution.cpp takes for the passes where that is faster. Operands are checked.
#pragma once

#include "kernels/cpu/convolution_pass.hpp"
#include "kernels/stream.hpp"

namespace tessera::kernels {

// Whether a pass, and of the forward pass the gradient of its weights, too, is made here.
bool is_direct(const Pass& pass);

std::int64_t direct_pass_workspace_bytes(const CpuStream& stream, const Pass& pass);
// The target's pixels of one group. bias: of the group, or null. `memory` holds the workspace, aligned to 64 bytes.
void direct_pass(CpuStream& stream, const Pass& pass, std::int64_t group, const float* source, const PackWeights& pack,
                 const float* bias, float* target, std::byte* memory);

std::int64_t direct_weight_gradient_workspace_bytes(const CpuStream& stream, const Pass& forward);
// dw: (filters, taps) of the group.
void direct_weight_gradient(CpuStream& stream, const Pass& forward, std::int64_t group, const float* dy, const float* x,
                            float* dw, std::byte* memory);

} // namespace tessera::kernels
