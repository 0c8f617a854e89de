// SPDX-License-Identifier: Apache-2.0
// The two ways to run a convolution on a GPU. Nothing of CUDA in here, so that tests can call each way.
#pragma once

#include "kernels/convolution.hpp"

namespace tessera::kernels {

enum class ConvolutionVariant {
    fastest, // cuDNN's, where it has one that keeps the promises of kernels/convolution.hpp; else our own
    tiled,   // our own, for any shape, dtype and alignment
};

// kernels/convolution.hpp with a chosen variant; the same workspaces.
void convolution(CudaStream& stream, ConvolutionVariant variant, const Convolution& shape, ConstView x, ConstView w,
                 ConstView bias, View y, View workspace);
void convolution_input_gradient(CudaStream& stream, ConvolutionVariant variant, const Convolution& shape, ConstView dy,
                                ConstView w, View dx, View workspace);
void convolution_weight_gradient(CudaStream& stream, ConvolutionVariant variant, const Convolution& shape, ConstView dy,
                                 ConstView x, View dw, View workspace);

// Checked operands.
void convolution_tiled(CudaStream& stream, const Convolution& shape, ConstView x, ConstView w, ConstView bias, View y);
void convolution_input_gradient_tiled(CudaStream& stream, const Convolution& shape, ConstView dy, ConstView w, View dx);
void convolution_weight_gradient_tiled(CudaStream& stream, const Convolution& shape, ConstView dy, ConstView x, View dw,
                                       View workspace);
std::int64_t convolution_weight_gradient_tiled_workspace_bytes(const CudaStream& stream, const Convolution& shape);

} // namespace tessera::kernels
