// SPDX-License-Identifier: Apache-2.0
// Convolutions that go through oneDNN: which ones, and how they are cut into calls. What convolution.cpp asks before
// its own ways. Operands are checked.
#pragma once

#include "kernels/cpu/onednn.hpp"
#include "kernels/stream.hpp"

#include <string>

namespace tessera::kernels {

// Whether it goes through oneDNN, by shape and types alone: then all below may be called.
bool is_onednn(const Convolution& shape, DType dtype, ConvolutionDirection direction);

// oneDNN's name of what it does: "jit:avx512_core"; empty for what is ours.
std::string onednn_name(const Convolution& shape, DType dtype, ConvolutionDirection direction);

std::int64_t onednn_workspace_bytes(const CpuStream& stream, const Convolution& shape, DType dtype,
                                    ConvolutionDirection direction);
void onednn_convolution(CpuStream& stream, const Convolution& shape, ConstView x, ConstView w, ConstView bias, View y,
                        View workspace);
void onednn_input_gradient(CpuStream& stream, const Convolution& shape, ConstView dy, ConstView w, View dx,
                           View workspace);
void onednn_weight_gradient(CpuStream& stream, const Convolution& shape, ConstView dy, ConstView x, View dw,
                            View workspace);

} // namespace tessera::kernels
