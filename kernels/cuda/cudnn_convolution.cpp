// SPDX-License-Identifier: Apache-2.0
// Convolutions for cuDNN. Its dims are N, C, H, W whatever the order in memory, which the strides say: channels last.
#include "kernels/cuda/cudnn_convolution.hpp"

#include <algorithm>

namespace tessera::cuda {
namespace {

using Dims = CudnnGraph::Dims;

constexpr std::int64_t most_plan_bytes = 32 << 20; // as of products (matmul.cpp)
constexpr std::int64_t least_plan_bytes = 16 << 10;

Dims channels_last(const Dims& dims) { return {dims[1] * dims[2] * dims[3], 1, dims[3] * dims[1], dims[1]}; }

} // namespace

CudnnGraph convolution_graph(ConvolutionPart part, const Convolution& shape, DType dtype, bool bias) {
    CudnnGraph graph;
    const Dims x_dims{shape.batch, shape.channels, shape.height, shape.width};
    const Dims w_dims{shape.filters, shape.group_channels(), shape.window.height.size, shape.window.width.size};
    const Dims y_dims{shape.batch, shape.filters, shape.out_height(), shape.out_width()};
    const auto stored = [&](std::int64_t name, DType type, const Dims& dims) {
        return graph.stored(name, type, dims, channels_last(dims));
    };
    const auto x = stored(convolution_x, dtype, x_dims), y = stored(convolution_y, dtype, y_dims);
    switch (part) {
    case ConvolutionPart::forward: {
        const auto w = stored(convolution_w, dtype, w_dims);
        if (!bias) {
            graph.convolution(shape.window, x, w, y);
            break;
        }
        const auto sums = graph.between(DType::f32, y_dims, channels_last(y_dims));
        graph.convolution(shape.window, x, w, sums);
        graph.apply(CudnnGraph::Binary::add, sums, stored(convolution_bias, DType::f32, {1, shape.filters, 1, 1}), y);
        break;
    }
    case ConvolutionPart::input_gradient:
        graph.convolution_input_gradient(shape.window, y, stored(convolution_w, dtype, w_dims), x);
        break;
    case ConvolutionPart::weight_gradient: {
        const auto dw = stored(convolution_w, DType::f32, w_dims);
        if (dtype == DType::f32) {
            graph.convolution_weight_gradient(shape.window, y, x, dw);
            break;
        }
        // The operation's own result has its factors' type; sums in f32 leave it by way of another operation.
        const auto sums = graph.between(DType::f32, w_dims, channels_last(w_dims));
        graph.convolution_weight_gradient(shape.window, y, x, sums);
        graph.apply(CudnnGraph::Unary::identity, sums, dw);
        break;
    }
    }
    return graph;
}

std::int64_t convolution_plan_bytes(const Convolution& shape) {
    const std::int64_t numbers = shape.batch * shape.height * shape.width * shape.channels +
                                 shape.filters * shape.taps() + shape.pixels() * shape.filters;
    return std::clamp<std::int64_t>(8 * numbers, least_plan_bytes, most_plan_bytes);
}

} // namespace tessera::cuda
