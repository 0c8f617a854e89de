// SPDX-License-Identifier: Apache-2.0
// Convolution on the GPU: checks, workspaces, and the choice between cuDNN's engines and our own kernel.
#include "kernels/check.hpp"
#include "kernels/convolution_check.hpp"
#include "kernels/cuda/convolution_variants.hpp"
#include "kernels/cuda/cudnn_convolution.hpp"
#include "kernels/cuda/device.hpp"
#include "kernels/cuda/trials.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera::kernels {
namespace {

using cuda::ConvolutionPart;

bool is_nothing(const Convolution& shape) {
    return shape.pixels() * shape.filters * shape.taps() * shape.batch * shape.height * shape.width == 0;
}

// The plan's part begins at a multiple of 256 bytes, which is more than a workspace has: the room for it is asked for.
std::int64_t library_bytes(const Convolution& shape) {
    return is_nothing(shape) ? 0 : cuda::cudnn_workspace_alignment + cuda::convolution_plan_bytes(shape);
}

std::int64_t weight_gradient_bytes(const CudaStream& stream, const Convolution& shape) {
    return std::max(library_bytes(shape), convolution_weight_gradient_tiled_workspace_bytes(stream, shape));
}

void* library_workspace(const View& workspace) {
    const auto address = reinterpret_cast<std::uintptr_t>(workspace.memory());
    constexpr auto alignment = static_cast<std::uintptr_t>(cuda::cudnn_workspace_alignment);
    return reinterpret_cast<void*>((address + alignment - 1) / alignment * alignment);
}

bool aligned(std::initializer_list<const void*> addresses) {
    return std::ranges::all_of(addresses, [](const void* address) {
        return reinterpret_cast<std::uintptr_t>(address) % cuda::cudnn_alignment == 0;
    });
}

std::vector<std::int64_t> key_of(ConvolutionPart part, const Convolution& c, DType dtype, bool bias) {
    const auto [height, width] = c.window;
    return {static_cast<std::int64_t>(part),
            static_cast<std::int64_t>(dtype),
            bias,
            c.batch,
            c.height,
            c.width,
            c.channels,
            c.filters,
            c.groups,
            height.size,
            height.stride,
            height.dilation,
            height.before,
            height.after,
            width.size,
            width.stride,
            width.dilation,
            width.before,
            width.after};
}

void check_dtype(const char* kernel, const char* name, const ConstView& view, DType dtype) {
    if (view.dtype != dtype)
        throw InternalError(
            fmt::format("{}: {} is {}, expected {}", kernel, name, name_of(view.dtype), name_of(dtype)));
}

void check_dtypes(const char* kernel, const ConstView& x, const ConstView& w, DType weight) {
    if (x.dtype != DType::f32 && x.dtype != DType::bf16 && x.dtype != DType::f16) refuse_dtype(kernel, x.dtype);
    check_dtype(kernel, "the weight", w, weight);
}

struct Operands {
    const void *x, *w, *y, *bias = nullptr;
};

// By the library, if it has a plan that is faster than `otherwise` or nobody asks which is; false: not done.
bool run_by_library(CudaStream& stream, ConvolutionPart part, const Convolution& shape, DType dtype,
                    const Operands& operands, const View& workspace, const std::function<void()>& otherwise) {
    if (is_nothing(shape) || !aligned({operands.x, operands.w, operands.y, operands.bias})) return false;
    const bool bias = operands.bias != nullptr;
    cuda::CudnnCall call{.key = key_of(part, shape, dtype, bias),
                         .describe = [&] { return cuda::convolution_graph(part, shape, dtype, bias); },
                         .limits = {.workspace_bytes = cuda::convolution_plan_bytes(shape),
                                    .full_f32 = dtype == DType::f32 && !stream.state().options.tf32},
                         .operands = {{cuda::convolution_x, operands.x},
                                      {cuda::convolution_w, operands.w},
                                      {cuda::convolution_y, operands.y}},
                         .workspace = library_workspace(workspace)};
    if (bias) call.operands.push_back({cuda::convolution_bias, operands.bias});
    return run_by_cudnn(stream, call, otherwise);
}

void note_asked(const CudaStream& stream, ConvolutionPart part, const Convolution& shape, DType dtype, bool bias) {
    if (!is_nothing(shape)) cuda::note_asked(stream, key_of(part, shape, dtype, bias));
}

} // namespace

void try_convolution(CudaStream& stream, const ChoiceWords& asked) {
    const auto part = static_cast<ConvolutionPart>(asked.at(0));
    const auto dtype = static_cast<DType>(asked.at(1));
    const auto dim = [&](std::size_t i) {
        return WindowDim{asked.at(i), asked.at(i + 1), asked.at(i + 2), asked.at(i + 3), asked.at(i + 4)};
    };
    const Convolution c{asked.at(3), asked.at(4), asked.at(5),      asked.at(6),
                        asked.at(7), asked.at(8), {dim(9), dim(14)}};
    const cuda::TrialOperand x(stream, dtype, c.batch * c.height * c.width * c.channels);
    const cuda::TrialOperand w(stream, part == ConvolutionPart::weight_gradient ? DType::f32 : dtype,
                               c.filters * c.taps());
    const cuda::TrialOperand y(stream, dtype, c.pixels() * c.filters), bias(stream, DType::f32, c.filters);
    const auto memory = [&](std::int64_t bytes) { return cuda::TrialOperand(stream, DType::f32, (bytes + 3) / 4); };
    switch (part) {
    case ConvolutionPart::forward: {
        const auto workspace = memory(convolution_workspace_bytes(stream, c, dtype, asked.at(2) != 0));
        return convolution(stream, c, x.view(), w.view(), asked.at(2) != 0 ? ConstView(bias.view()) : ConstView(),
                           y.view(), workspace.view());
    }
    case ConvolutionPart::input_gradient:
        return convolution_input_gradient(stream, c, y.view(), w.view(), x.view(),
                                          memory(convolution_input_gradient_workspace_bytes(stream, c, dtype)).view());
    case ConvolutionPart::weight_gradient:
        return convolution_weight_gradient(
            stream, c, y.view(), x.view(), w.view(),
            memory(convolution_weight_gradient_workspace_bytes(stream, c, dtype)).view());
    }
}

std::int64_t convolution_workspace_bytes(const CudaStream& stream, const Convolution& shape, DType dtype, bool bias) {
    check_convolution("convolution", shape);
    note_asked(stream, ConvolutionPart::forward, shape, dtype, bias);
    return library_bytes(shape);
}

std::int64_t convolution_input_gradient_workspace_bytes(const CudaStream& stream, const Convolution& shape,
                                                        DType dtype) {
    check_convolution("convolution_input_gradient", shape);
    note_asked(stream, ConvolutionPart::input_gradient, shape, dtype, false);
    return library_bytes(shape);
}

std::int64_t convolution_weight_gradient_workspace_bytes(const CudaStream& stream, const Convolution& shape,
                                                         DType dtype) {
    check_convolution("convolution_weight_gradient", shape);
    note_asked(stream, ConvolutionPart::weight_gradient, shape, dtype, false);
    return weight_gradient_bytes(stream, shape);
}

void convolution(CudaStream& stream, ConvolutionVariant variant, const Convolution& shape, ConstView x, ConstView w,
                 ConstView bias, View y, View workspace) {
    constexpr auto kernel = "convolution";
    check_convolution(kernel, shape, x, w, y);
    check_dtypes(kernel, x, w, x.dtype);
    if (bias) {
        check_count(kernel, "the bias", bias, shape.filters);
        check_dtype(kernel, "the bias", bias, DType::f32);
    }
    check_workspace(kernel, workspace, library_bytes(shape));
    const auto by_library = [&](const ConstView& added) {
        return run_by_library(stream, ConvolutionPart::forward, shape, x.dtype, {x.data, w.data, y.data, added.data},
                              workspace, [&] { convolution_tiled(stream, shape, x, w, bias, y); });
    };
    if (variant == ConvolutionVariant::fastest) {
        if (by_library(bias)) return;
        if (bias && by_library({})) return add_rows(stream, y, bias, y);
    }
    convolution_tiled(stream, shape, x, w, bias, y);
}

void convolution_input_gradient(CudaStream& stream, ConvolutionVariant variant, const Convolution& shape, ConstView dy,
                                ConstView w, View dx, View workspace) {
    constexpr auto kernel = "convolution_input_gradient";
    check_convolution(kernel, shape, dx, w, dy);
    check_dtypes(kernel, dy, w, dy.dtype);
    check_workspace(kernel, workspace, library_bytes(shape));
    const auto tiled = [&] { convolution_input_gradient_tiled(stream, shape, dy, w, dx); };
    if (variant == ConvolutionVariant::tiled || !run_by_library(stream, ConvolutionPart::input_gradient, shape,
                                                                dy.dtype, {dx.data, w.data, dy.data}, workspace, tiled))
        tiled();
}

void convolution_weight_gradient(CudaStream& stream, ConvolutionVariant variant, const Convolution& shape, ConstView dy,
                                 ConstView x, View dw, View workspace) {
    constexpr auto kernel = "convolution_weight_gradient";
    check_convolution(kernel, shape, x, dw, dy);
    check_dtypes(kernel, x, dw, DType::f32);
    check_workspace(kernel, workspace, weight_gradient_bytes(stream, shape));
    const auto tiled = [&] { convolution_weight_gradient_tiled(stream, shape, dy, x, dw, workspace); };
    if (variant == ConvolutionVariant::tiled || !run_by_library(stream, ConvolutionPart::weight_gradient, shape,
                                                                x.dtype, {x.data, dw.data, dy.data}, workspace, tiled))
        tiled();
}

void convolution(CudaStream& stream, const Convolution& shape, ConstView x, ConstView w, ConstView bias, View y,
                 View workspace) {
    convolution(stream, ConvolutionVariant::fastest, shape, x, w, bias, y, workspace);
}

void convolution_input_gradient(CudaStream& stream, const Convolution& shape, ConstView dy, ConstView w, View dx,
                                View workspace) {
    convolution_input_gradient(stream, ConvolutionVariant::fastest, shape, dy, w, dx, workspace);
}

void convolution_weight_gradient(CudaStream& stream, const Convolution& shape, ConstView dy, ConstView x, View dw,
                                 View workspace) {
    convolution_weight_gradient(stream, ConvolutionVariant::fastest, shape, dy, x, dw, workspace);
}

} // namespace tessera::kernels
