// SPDX-License-Identifier: Apache-2.0
// Tensors of cuDNN's graphs, and which of them go together in an operation.
#include "tests/cuda_emulation/cudnn_descriptors.hpp"

namespace tessera::emulation::cudnn {
namespace {

// Dims of x that y, of the same tensor but for them, has one of, or a part that divides them.
bool shares(const Tensor& large, const Tensor& small) {
    for (std::size_t dim = 0; dim < 4; ++dim)
        if (small.dims[dim] < 1 || large.dims[dim] % small.dims[dim] != 0) return false;
    return true;
}

bool convolution_fits(const Descriptor& function, const Tensor& x, const Tensor& w, const Tensor& y) {
    const auto value = [&](cudnnBackendAttributeName_t name, std::size_t i) {
        return function.value<std::int64_t>(name, i);
    };
    for (std::size_t i = 0; i < 2; ++i) {
        const std::int64_t rest = x.dims[2 + i] + value(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, i) +
                                  value(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, i) -
                                  value(CUDNN_ATTR_CONVOLUTION_DILATIONS, i) * (w.dims[2 + i] - 1) - 1;
        if (rest < 0 || y.dims[2 + i] != rest / value(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, i) + 1) return false;
    }
    return x.dims[0] == y.dims[0] && w.dims[0] == y.dims[1] && x.dims[1] % w.dims[1] == 0 &&
           w.dims[0] % (x.dims[1] / w.dims[1]) == 0;
}

bool pointwise_fits(const Descriptor& operation, const Tensor& x, const Tensor& y) {
    const Descriptor& function = operation.other(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
    const auto mode = function.value<cudnnPointwiseMode_t>(CUDNN_ATTR_POINTWISE_MODE);
    const auto precision = function.value<cudnnDataType_t>(CUDNN_ATTR_POINTWISE_MATH_PREC);
    const bool b = operation.has(CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
    const bool condition = operation.has(CUDNN_ATTR_OPERATION_POINTWISE_TDESC);
    const bool unary = mode == CUDNN_POINTWISE_IDENTITY || mode == CUDNN_POINTWISE_EXP || mode == CUDNN_POINTWISE_LOG ||
                       mode == CUDNN_POINTWISE_GEN_INDEX;
    const bool select = mode == CUDNN_POINTWISE_BINARY_SELECT, compare = mode == CUDNN_POINTWISE_CMP_GE;
    if (b == unary || condition != select) return false;
    if (compare != (precision == CUDNN_DATA_BOOLEAN) || compare != (y.type == CUDNN_DATA_BOOLEAN)) return false;
    if (function.has(CUDNN_ATTR_POINTWISE_AXIS) != (mode == CUDNN_POINTWISE_GEN_INDEX)) return false;
    if ((mode == CUDNN_POINTWISE_GEN_INDEX) != (y.type == CUDNN_DATA_INT32)) return false;
    if (condition && Tensor(operation.other(CUDNN_ATTR_OPERATION_POINTWISE_TDESC)).type != CUDNN_DATA_BOOLEAN)
        return false;
    return shares(y, x) && (!b || shares(y, Tensor(operation.other(CUDNN_ATTR_OPERATION_POINTWISE_BDESC))));
}

bool matmul_fits(const Tensor& a, const Tensor& b, const Tensor& c) {
    return a.dims[0] == c.dims[0] && a.dims[1] == c.dims[1] && a.dims[2] == c.dims[2] && a.dims[3] == b.dims[2] &&
           b.dims[0] == c.dims[0] && b.dims[3] == c.dims[3] && c.dims[1] % b.dims[1] == 0 &&
           (a.type == b.type || (a.is_virtual && a.type == CUDNN_DATA_FLOAT));
}

} // namespace

std::size_t bytes_of(cudnnDataType_t type) {
    return type == CUDNN_DATA_BFLOAT16 || type == CUDNN_DATA_HALF ? 2 : type == CUDNN_DATA_BOOLEAN ? 1 : 4;
}

Tensor::Tensor(const Descriptor& descriptor)
    : number(descriptor.value<std::int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID)),
      type(descriptor.value<cudnnDataType_t>(CUDNN_ATTR_TENSOR_DATA_TYPE)), dims(), strides(),
      alignment(descriptor.value<std::int64_t>(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT)),
      is_virtual(descriptor.has(CUDNN_ATTR_TENSOR_IS_VIRTUAL) && descriptor.value<bool>(CUDNN_ATTR_TENSOR_IS_VIRTUAL)),
      by_value(descriptor.has(CUDNN_ATTR_TENSOR_IS_BY_VALUE) && descriptor.value<bool>(CUDNN_ATTR_TENSOR_IS_BY_VALUE)) {
    for (std::size_t dim = 0; dim < 4; ++dim) {
        dims[dim] = descriptor.value<std::int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS, dim);
        strides[dim] = descriptor.value<std::int64_t>(CUDNN_ATTR_TENSOR_STRIDES, dim);
    }
}

std::int64_t Tensor::extent() const {
    std::int64_t last = 0;
    for (std::size_t dim = 0; dim < 4; ++dim)
        last += (dims[dim] - 1) * strides[dim];
    return last + 1;
}

bool fits(const Descriptor& operation) {
    const OperandNames& names = *operands_of(operation);
    const Tensor first(operation.other(names.inputs[0])), output(operation.other(names.output));
    switch (operation.type) {
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
        return convolution_fits(operation.other(names.function), first, Tensor(operation.other(names.inputs[1])),
                                output);
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
        return convolution_fits(operation.other(names.function), output, Tensor(operation.other(names.inputs[1])),
                                first);
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR:
        return convolution_fits(operation.other(names.function), Tensor(operation.other(names.inputs[1])), output,
                                first);
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
        return pointwise_fits(operation, first, output);
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
        return matmul_fits(first, Tensor(operation.other(names.inputs[1])), output);
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
        return shares(first, output);
    default:
        return first.count() == output.count() && first.extent() == output.extent();
    }
}

} // namespace tessera::emulation::cudnn
