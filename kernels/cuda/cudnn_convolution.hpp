// SPDX-License-Identifier: Apache-2.0
// A convolution and its gradients as graphs of cuDNN.
#pragma once

#include "kernels/convolution.hpp"
#include "kernels/cuda/cudnn.hpp"

namespace tessera::cuda {

enum class ConvolutionPart { forward, input_gradient, weight_gradient };

// The names of the graphs' tensors in memory.
inline constexpr std::int64_t convolution_x = 1, convolution_w = 2, convolution_y = 3, convolution_bias = 4;

// x, w and y (or the gradients in their places) of `dtype`, but for a gradient of w and a bias, which are f32.
CudnnGraph convolution_graph(ConvolutionPart part, const Convolution& shape, DType dtype, bool bias);

// Bytes that a plan may have: what a copy of every operand in another order takes, and parts of a gradient's sums.
std::int64_t convolution_plan_bytes(const Convolution& shape);

} // namespace tessera::cuda
