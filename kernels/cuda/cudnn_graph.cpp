// SPDX-License-Identifier: Apache-2.0
// Descriptors of tensors and operations (cuDNN's "backend" interface, cudnnBackendSetAttribute).
#include "kernels/cuda/cudnn_parts.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <limits>

namespace tessera::cuda {
namespace {

using Dims = CudnnGraph::Dims;

constexpr std::int64_t unnamed = 1000; // the numbers of tensors that no call names begin here

cudnnDataType_t library_type(DType dtype) {
    switch (dtype) {
    case DType::f32:
        return CUDNN_DATA_FLOAT;
    case DType::bf16:
        return CUDNN_DATA_BFLOAT16;
    case DType::f16:
        return CUDNN_DATA_HALF;
    case DType::i32:
        return CUDNN_DATA_INT32;
    case DType::f8e4m3:
    case DType::f8e5m2:
        break;
    }
    throw InternalError(fmt::format("a graph of cuDNN with a tensor of {}", name_of(dtype)));
}

Dims strides_of(const Dims& dims) { return {dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3], 1}; }

bool finish(CudnnGraph::Parts& parts, const Descriptor& descriptor) {
    const cudnnStatus_t status = descriptor.finalize();
    if (is_unsupported(status))
        parts.supported = false;
    else
        check_cudnn(status, "cudnnBackendFinalize");
    return parts.supported;
}

CudnnGraph::Tensor add_tensor(CudnnGraph::Parts& parts, Descriptor made, cudnnDataType_t type, DType dtype,
                              const Dims& dims, const Dims& strides) {
    made.set(CUDNN_ATTR_TENSOR_DATA_TYPE, type);
    made.set(CUDNN_ATTR_TENSOR_DIMENSIONS, dims);
    made.set(CUDNN_ATTR_TENSOR_STRIDES, strides);
    made.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, cudnn_alignment);
    finish(parts, made);
    parts.tensors.push_back({std::move(made), dtype, dims, strides});
    return {parts.tensors.size() - 1};
}

Descriptor numbered(const CudnnGraph::Parts& parts) {
    Descriptor made(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    made.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, unnamed + static_cast<std::int64_t>(parts.tensors.size()));
    return made;
}

// `truth`: of yes and no, which no DType says.
CudnnGraph::Tensor add_between(CudnnGraph::Parts& parts, DType dtype, const Dims& dims, const Dims& strides,
                               bool truth = false) {
    Descriptor made = numbered(parts);
    made.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, true);
    return add_tensor(parts, std::move(made), truth ? CUDNN_DATA_BOOLEAN : library_type(dtype), dtype, dims, strides);
}

const Descriptor& operand(const CudnnGraph::Parts& parts, CudnnGraph::Tensor tensor) {
    return parts.tensors.at(tensor.number).descriptor;
}

void add_operation(CudnnGraph::Parts& parts, Descriptor made) {
    if (finish(parts, made)) parts.operations.push_back(std::move(made));
}

// The attributes of an operation's operands, in the order of x, w and y, and of the rest.
struct ConvolutionNames {
    cudnnBackendDescriptorType_t type;
    cudnnBackendAttributeName_t x, w, y, function, alpha, beta;
};

void convolve(CudnnGraph::Parts& parts, const ConvolutionNames& names, const Window& window, CudnnGraph::Tensor x,
              CudnnGraph::Tensor w, CudnnGraph::Tensor y) {
    if (!parts.supported) return;
    using Pair = std::array<std::int64_t, 2>;
    const auto [height, width] = window;
    Descriptor& function = parts.others.emplace_back(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    function.set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, std::int64_t{2});
    function.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_DATA_FLOAT);
    function.set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    function.set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, Pair{height.before, width.before});
    function.set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, Pair{height.after, width.after});
    function.set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, Pair{height.stride, width.stride});
    function.set(CUDNN_ATTR_CONVOLUTION_DILATIONS, Pair{height.dilation, width.dilation});
    if (!finish(parts, function)) return;
    Descriptor made(names.type);
    made.refer(names.function, function);
    made.refer(names.x, operand(parts, x));
    made.refer(names.w, operand(parts, w));
    made.refer(names.y, operand(parts, y));
    made.set(names.alpha, 1.0f);
    made.set(names.beta, 0.0f);
    add_operation(parts, std::move(made));
}

struct PointwiseOperands {
    CudnnGraph::Tensor x, y;
    std::optional<CudnnGraph::Tensor> b{}, condition{};
};

void pointwise(CudnnGraph::Parts& parts, cudnnPointwiseMode_t mode, cudnnDataType_t precision,
               const PointwiseOperands& operands, std::optional<std::int64_t> axis = {}) {
    if (!parts.supported) return;
    Descriptor& function = parts.others.emplace_back(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    function.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    function.set(CUDNN_ATTR_POINTWISE_MATH_PREC, precision);
    if (axis) function.set(CUDNN_ATTR_POINTWISE_AXIS, *axis);
    if (!finish(parts, function)) return;
    Descriptor made(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    made.refer(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, function);
    made.refer(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, operand(parts, operands.x));
    if (operands.b) made.refer(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, operand(parts, *operands.b));
    if (operands.condition) made.refer(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, operand(parts, *operands.condition));
    made.refer(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, operand(parts, operands.y));
    add_operation(parts, std::move(made));
}

void reduce(CudnnGraph::Parts& parts, cudnnReduceTensorOp_t mode, CudnnGraph::Tensor x, CudnnGraph::Tensor y) {
    if (!parts.supported) return;
    Descriptor& function = parts.others.emplace_back(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    function.set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &mode);
    function.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
    if (!finish(parts, function)) return;
    Descriptor made(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    made.refer(CUDNN_ATTR_OPERATION_REDUCTION_DESC, function);
    made.refer(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, operand(parts, x));
    made.refer(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, operand(parts, y));
    add_operation(parts, std::move(made));
}

// What masked scores hold. Before 9.10 the library wanted a finite number (cudnn-frontend, get_negative_inf_value).
float lowest_score() {
    return cudnnGetVersion() < 91000 ? std::numeric_limits<float>::lowest() : -std::numeric_limits<float>::infinity();
}

} // namespace

std::string cudnn_failure(cudnnStatus_t status, const char* call) {
    std::array<char, 512> reason{};
    cudnnGetLastErrorString(reason.data(), reason.size());
    return fmt::format("{} failed: {}{}{}", call, cudnnGetErrorString(status), reason[0] == '\0' ? "" : ": ",
                       reason.data());
}

void check_cudnn(cudnnStatus_t status, const char* call) {
    if (status != CUDNN_STATUS_SUCCESS) throw SystemError(cudnn_failure(status, call));
}

bool is_unsupported(cudnnStatus_t status) { return CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_NOT_SUPPORTED; }

Descriptor::Descriptor(cudnnBackendDescriptorType_t type) {
    void* made = nullptr;
    check_cudnn(cudnnBackendCreateDescriptor(type, &made), "cudnnBackendCreateDescriptor");
    handle_.reset(made);
}

void Descriptor::set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::int64_t count,
                     const void* values) {
    check_cudnn(cudnnBackendSetAttribute(handle_.get(), name, type, count, values), "cudnnBackendSetAttribute");
}

CudnnGraph::CudnnGraph() : parts_(std::make_unique<Parts>()) {}
CudnnGraph::CudnnGraph(CudnnGraph&&) noexcept = default;
CudnnGraph& CudnnGraph::operator=(CudnnGraph&&) noexcept = default;
CudnnGraph::~CudnnGraph() = default;

CudnnGraph::Tensor CudnnGraph::stored(std::int64_t name, DType dtype, const Dims& dims, const Dims& strides) {
    Descriptor made(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    made.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, name);
    return add_tensor(*parts_, std::move(made), library_type(dtype), dtype, dims, strides);
}

CudnnGraph::Tensor CudnnGraph::between(DType dtype, const Dims& dims) { return between(dtype, dims, strides_of(dims)); }

CudnnGraph::Tensor CudnnGraph::between(DType dtype, const Dims& dims, const Dims& strides) {
    return add_between(*parts_, dtype, dims, strides);
}

CudnnGraph::Tensor CudnnGraph::constant(float value) {
    Descriptor made = numbered(*parts_);
    made.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, true);
    parts_->constants.push_back({unnamed + static_cast<std::int64_t>(parts_->tensors.size()), value});
    return add_tensor(*parts_, std::move(made), CUDNN_DATA_FLOAT, DType::f32, {1, 1, 1, 1}, {1, 1, 1, 1});
}

void CudnnGraph::convolution(const Window& window, Tensor x, Tensor w, Tensor y) {
    convolve(*parts_,
             {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
             window, x, w, y);
}

void CudnnGraph::convolution_input_gradient(const Window& window, Tensor dy, Tensor w, Tensor dx) {
    convolve(*parts_,
             {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
             window, dx, w, dy);
}

void CudnnGraph::convolution_weight_gradient(const Window& window, Tensor dy, Tensor x, Tensor dw) {
    convolve(*parts_,
             {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA},
             window, x, dw, dy);
}

void CudnnGraph::apply(Unary function, Tensor x, Tensor y) {
    constexpr cudnnPointwiseMode_t modes[] = {CUDNN_POINTWISE_IDENTITY, CUDNN_POINTWISE_EXP, CUDNN_POINTWISE_LOG};
    pointwise(*parts_, modes[static_cast<int>(function)], CUDNN_DATA_FLOAT, {.x = x, .y = y});
}

void CudnnGraph::apply(Binary function, Tensor a, Tensor b, Tensor y) {
    constexpr cudnnPointwiseMode_t modes[] = {CUDNN_POINTWISE_ADD, CUDNN_POINTWISE_SUB, CUDNN_POINTWISE_MUL,
                                              CUDNN_POINTWISE_DIV};
    pointwise(*parts_, modes[static_cast<int>(function)], CUDNN_DATA_FLOAT, {.x = a, .y = y, .b = b});
}

// The pattern in which the library's attention engines know a causal mask (cudnn-frontend, diagonal_band_mask.h).
CudnnGraph::Tensor CudnnGraph::causal(Tensor x) {
    const Dims dims = parts_->tensors.at(x.number).dims;
    const Tensor row = between(DType::i32, dims), column = between(DType::i32, dims);
    pointwise(*parts_, CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_FLOAT, {.x = x, .y = row}, 2);
    pointwise(*parts_, CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_FLOAT, {.x = x, .y = column}, 3);
    const Tensor seen = add_between(*parts_, DType::i32, dims, strides_of(dims), true);
    pointwise(*parts_, CUDNN_POINTWISE_CMP_GE, CUDNN_DATA_BOOLEAN, {.x = row, .y = seen, .b = column});
    const Tensor masked = between(DType::f32, dims);
    pointwise(*parts_, CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT,
              {.x = x, .y = masked, .b = constant(lowest_score()), .condition = seen});
    return masked;
}

void CudnnGraph::matmul(Tensor a, Tensor b, Tensor c) {
    if (!parts_->supported) return;
    Descriptor& function = parts_->others.emplace_back(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    function.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
    if (!finish(*parts_, function)) return;
    Descriptor made(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    made.refer(CUDNN_ATTR_OPERATION_MATMUL_DESC, function);
    made.refer(CUDNN_ATTR_OPERATION_MATMUL_ADESC, operand(*parts_, a));
    made.refer(CUDNN_ATTR_OPERATION_MATMUL_BDESC, operand(*parts_, b));
    made.refer(CUDNN_ATTR_OPERATION_MATMUL_CDESC, operand(*parts_, c));
    add_operation(*parts_, std::move(made));
}

void CudnnGraph::sum(Tensor x, Tensor y) { reduce(*parts_, CUDNN_REDUCE_TENSOR_ADD, x, y); }
void CudnnGraph::largest(Tensor x, Tensor y) { reduce(*parts_, CUDNN_REDUCE_TENSOR_MAX, x, y); }

// A reshape to the same memory with the two dims and their strides in each other's place.
CudnnGraph::Tensor CudnnGraph::transposed(Tensor x, DType dtype) {
    auto [dims, strides] = [&] {
        const Parts::Known& known = parts_->tensors.at(x.number);
        return std::pair(known.dims, known.strides);
    }();
    std::swap(dims[2], dims[3]);
    std::swap(strides[2], strides[3]);
    const Tensor y = add_between(*parts_, dtype, dims, strides);
    if (!parts_->supported) return y;
    Descriptor made(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    made.refer(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, operand(*parts_, x));
    made.refer(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, operand(*parts_, y));
    add_operation(*parts_, std::move(made));
    return y;
}

} // namespace tessera::cuda
