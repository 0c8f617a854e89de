// SPDX-License-Identifier: Apache-2.0
// The operations of cuDNN's graphs as plain loops: sums in double, every result rounded to its tensor's type.
#include "tests/cuda_emulation/cudnn_descriptors.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <limits>
#include <stdexcept>

namespace tessera::emulation::cudnn {
namespace {

using Numbers = std::vector<float>; // in the order of the dims, whatever the strides

std::int64_t offset(const Tensor& tensor, std::int64_t i) {
    std::int64_t place = 0;
    for (std::size_t dim = 4; dim-- > 0; i /= tensor.dims[dim])
        place += i % tensor.dims[dim] * tensor.strides[dim];
    return place;
}

// Where in `small` the element i of `large` is found: the same place, or the one that its neighbours share.
std::int64_t shared_place(const Tensor& large, const Tensor& small, std::int64_t i) {
    if (small.dims == large.dims) return i;
    if (small.count() == 1) return 0;
    std::int64_t place = 0, weight = 1;
    for (std::size_t dim = 4; dim-- > 0; i /= large.dims[dim]) {
        place += i % large.dims[dim] * small.dims[dim] / large.dims[dim] * weight;
        weight *= small.dims[dim];
    }
    return place;
}

float rounded(float value, cudnnDataType_t type) {
    if (type == CUDNN_DATA_BFLOAT16) return __bfloat162float(__float2bfloat16(value));
    if (type == CUDNN_DATA_HALF) return __half2float(__float2half(value));
    return value;
}

float rounded_to_tf32(float value) {
    const auto word = std::bit_cast<std::uint32_t>(value);
    if ((word & 0x7f800000u) == 0x7f800000u) return value;
    return std::bit_cast<float>((word + 0xfffu + ((word >> 13) & 1u)) & ~0x1fffu);
}

class Run {
public:
    Run(const std::map<std::int64_t, void*>& memory, bool tf32) : memory_(memory), tf32_(tf32) {}

    void operation(const Descriptor& operation);

private:
    const Numbers& load(const Tensor& tensor);
    void store(const Tensor& tensor, Numbers numbers);
    Numbers factors(const Tensor& tensor) {
        Numbers numbers = load(tensor);
        if (tf32_ && tensor.type == CUDNN_DATA_FLOAT)
            std::transform(numbers.begin(), numbers.end(), numbers.begin(), rounded_to_tf32);
        return numbers;
    }
    void convolution(const Descriptor& operation, const Tensor& x, const Tensor& w, const Tensor& y);
    void pointwise(const Descriptor& operation, const Tensor& x, const Tensor& y);
    void matmul(const Tensor& a, const Tensor& b, const Tensor& c);
    void reduce(const Descriptor& function, const Tensor& x, const Tensor& y);
    void reshape(const Tensor& x, const Tensor& y);

    const std::map<std::int64_t, void*>& memory_;
    bool tf32_;
    std::map<std::int64_t, Numbers> known_;
};

const Numbers& Run::load(const Tensor& tensor) {
    if (const auto at = known_.find(tensor.number); at != known_.end()) return at->second;
    if (tensor.is_virtual) throw std::logic_error("cuDNN: a tensor between operations is read before it is written");
    const void* memory = memory_.at(tensor.number);
    Numbers numbers(static_cast<std::size_t>(tensor.count()));
    for (std::int64_t i = 0; i < tensor.count(); ++i) {
        const std::int64_t at = offset(tensor, i);
        float& number = numbers[static_cast<std::size_t>(i)];
        if (tensor.type == CUDNN_DATA_BFLOAT16)
            number = __bfloat162float(static_cast<const __nv_bfloat16*>(memory)[at]);
        else if (tensor.type == CUDNN_DATA_HALF)
            number = __half2float(static_cast<const __half*>(memory)[at]);
        else
            number = static_cast<const float*>(memory)[at];
    }
    return known_.emplace(tensor.number, std::move(numbers)).first->second;
}

void Run::store(const Tensor& tensor, Numbers numbers) {
    for (float& number : numbers)
        number = rounded(number, tensor.type);
    if (!tensor.is_virtual) {
        void* memory = memory_.at(tensor.number);
        for (std::int64_t i = 0; i < tensor.count(); ++i) {
            const std::int64_t at = offset(tensor, i);
            const float number = numbers[static_cast<std::size_t>(i)];
            if (tensor.type == CUDNN_DATA_BFLOAT16)
                static_cast<__nv_bfloat16*>(memory)[at] = __float2bfloat16(number);
            else if (tensor.type == CUDNN_DATA_HALF)
                static_cast<__half*>(memory)[at] = __float2half(number);
            else
                static_cast<float*>(memory)[at] = number;
        }
    }
    known_[tensor.number] = std::move(numbers);
}

// Calls visit(place in x, in w, in y) for every product of a convolution.
template <class Visit>
void for_products(const Descriptor& function, const Tensor& x, const Tensor& w, const Tensor& y, const Visit& visit) {
    const auto pair = [&](cudnnBackendAttributeName_t name) {
        return std::array{function.value<std::int64_t>(name, 0), function.value<std::int64_t>(name, 1)};
    };
    const auto before = pair(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS), dilation = pair(CUDNN_ATTR_CONVOLUTION_DILATIONS);
    const auto stride = pair(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES);
    const std::int64_t channels = w.dims[1], group_filters = w.dims[0] / (x.dims[1] / channels);
    for (std::int64_t at_y = 0; at_y < y.count(); ++at_y) {
        const std::int64_t q = at_y % y.dims[3], p = at_y / y.dims[3] % y.dims[2];
        const std::int64_t k = at_y / y.dims[3] / y.dims[2] % y.dims[1], n = at_y / y.dims[3] / y.dims[2] / y.dims[1];
        for (std::int64_t r = 0; r < w.dims[2]; ++r) {
            const std::int64_t row = p * stride[0] - before[0] + r * dilation[0];
            if (row < 0 || row >= x.dims[2]) continue;
            for (std::int64_t s = 0; s < w.dims[3]; ++s) {
                const std::int64_t column = q * stride[1] - before[1] + s * dilation[1];
                if (column < 0 || column >= x.dims[3]) continue;
                for (std::int64_t c = 0; c < channels; ++c) {
                    const std::int64_t channel = k / group_filters * channels + c;
                    visit(static_cast<std::size_t>(((n * x.dims[1] + channel) * x.dims[2] + row) * x.dims[3] + column),
                          static_cast<std::size_t>(((k * channels + c) * w.dims[2] + r) * w.dims[3] + s),
                          static_cast<std::size_t>(at_y));
                }
            }
        }
    }
}

Numbers narrowed(const std::vector<double>& sums) { return {sums.begin(), sums.end()}; }

void Run::convolution(const Descriptor& operation, const Tensor& x, const Tensor& w, const Tensor& y) {
    const Descriptor& function = operation.other(operands_of(operation)->function);
    const auto sum = [&](const Tensor& a, const Tensor& b, const Tensor& to, const auto& places) {
        const Numbers left = factors(a), right = factors(b);
        std::vector<double> sums(static_cast<std::size_t>(to.count()));
        for_products(function, x, w, y, [&](std::size_t in, std::size_t by, std::size_t out) {
            const auto [l, r, t] = places(in, by, out);
            sums[t] += static_cast<double>(left[l]) * static_cast<double>(right[r]);
        });
        store(to, narrowed(sums));
    };
    using Places = std::array<std::size_t, 3>;
    using Index = std::size_t;
    if (operation.type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR)
        sum(x, w, y, [](Index in, Index by, Index out) { return Places{in, by, out}; });
    else if (operation.type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR)
        sum(y, w, x, [](Index in, Index by, Index out) { return Places{out, by, in}; });
    else
        sum(y, x, w, [](Index in, Index by, Index out) { return Places{out, in, by}; });
}

float function_of(cudnnPointwiseMode_t mode, float x, float b, float condition) {
    switch (mode) {
    case CUDNN_POINTWISE_ADD:
        return x + b;
    case CUDNN_POINTWISE_SUB:
        return x - b;
    case CUDNN_POINTWISE_MUL:
        return x * b;
    case CUDNN_POINTWISE_DIV:
        return x / b;
    case CUDNN_POINTWISE_EXP:
        return std::exp(x);
    case CUDNN_POINTWISE_LOG:
        return std::log(x);
    case CUDNN_POINTWISE_CMP_GE:
        return x >= b ? 1.0f : 0.0f;
    case CUDNN_POINTWISE_BINARY_SELECT:
        return condition != 0 ? x : b;
    default:
        return x;
    }
}

void Run::pointwise(const Descriptor& operation, const Tensor& x, const Tensor& y) {
    const Descriptor& function = operation.other(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
    const auto mode = function.value<cudnnPointwiseMode_t>(CUDNN_ATTR_POINTWISE_MODE);
    Numbers result(static_cast<std::size_t>(y.count()));
    if (mode == CUDNN_POINTWISE_GEN_INDEX) {
        const auto axis = static_cast<std::size_t>(function.value<std::int64_t>(CUDNN_ATTR_POINTWISE_AXIS));
        std::int64_t below = 1;
        for (std::size_t dim = axis + 1; dim < 4; ++dim)
            below *= y.dims[dim];
        for (std::int64_t i = 0; i < y.count(); ++i)
            result[static_cast<std::size_t>(i)] = static_cast<float>(i / below % y.dims[axis]);
        return store(y, std::move(result));
    }
    const auto optional = [&](cudnnBackendAttributeName_t name) {
        return operation.has(name) ? Tensor(operation.other(name)) : x;
    };
    const Tensor b = optional(CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
    const Tensor condition = optional(CUDNN_ATTR_OPERATION_POINTWISE_TDESC);
    const Numbers first = load(x), second = load(b), third = load(condition);
    for (std::int64_t i = 0; i < y.count(); ++i)
        result[static_cast<std::size_t>(i)] =
            function_of(mode, first[static_cast<std::size_t>(shared_place(y, x, i))],
                        second[static_cast<std::size_t>(shared_place(y, b, i))],
                        third[static_cast<std::size_t>(shared_place(y, condition, i))]);
    store(y, std::move(result));
}

void Run::matmul(const Tensor& a, const Tensor& b, const Tensor& c) {
    Numbers left = factors(a);
    const Numbers right = factors(b);
    for (float& factor : left) // tensor cores take factors of one type
        factor = rounded(factor, b.type);
    std::vector<double> sums(static_cast<std::size_t>(c.count()));
    const std::int64_t m = c.dims[2], n = c.dims[3], k = a.dims[3];
    for (std::int64_t matrix = 0; matrix < c.dims[0] * c.dims[1]; ++matrix) {
        const std::int64_t head = matrix % c.dims[1], shared = head * b.dims[1] / c.dims[1];
        const float* x = left.data() + matrix * m * k;
        const float* y = right.data() + (matrix / c.dims[1] * b.dims[1] + shared) * k * n;
        double* z = sums.data() + matrix * m * n;
        for (std::int64_t row = 0; row < m; ++row)
            for (std::int64_t term = 0; term < k; ++term)
                for (std::int64_t column = 0; column < n; ++column)
                    z[row * n + column] +=
                        static_cast<double>(x[row * k + term]) * static_cast<double>(y[term * n + column]);
    }
    store(c, narrowed(sums));
}

void Run::reduce(const Descriptor& function, const Tensor& x, const Tensor& y) {
    const bool largest =
        function.value<cudnnReduceTensorOp_t>(CUDNN_ATTR_REDUCTION_OPERATOR) == CUDNN_REDUCE_TENSOR_MAX;
    std::vector<double> results(static_cast<std::size_t>(y.count()),
                                largest ? -std::numeric_limits<double>::infinity() : 0);
    const Numbers& numbers = load(x);
    for (std::int64_t i = 0; i < x.count(); ++i) {
        double& result = results[static_cast<std::size_t>(shared_place(x, y, i))];
        const double number = static_cast<double>(numbers[static_cast<std::size_t>(i)]);
        if (!largest)
            result += number;
        else if (!(number <= result)) // a NaN stays
            result = number;
    }
    store(y, narrowed(results));
}

void Run::reshape(const Tensor& x, const Tensor& y) {
    const Numbers& from = load(x);
    Numbers memory(static_cast<std::size_t>(x.extent())), result(from.size());
    for (std::int64_t i = 0; i < x.count(); ++i)
        memory[static_cast<std::size_t>(offset(x, i))] = from[static_cast<std::size_t>(i)];
    for (std::int64_t i = 0; i < y.count(); ++i)
        result[static_cast<std::size_t>(i)] = memory[static_cast<std::size_t>(offset(y, i))];
    store(y, std::move(result));
}

void Run::operation(const Descriptor& operation) {
    const OperandNames& names = *operands_of(operation);
    const Tensor first(operation.other(names.inputs[0])), output(operation.other(names.output));
    switch (operation.type) {
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
        return convolution(operation, first, Tensor(operation.other(names.inputs[1])), output);
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR: // dy, w, dx
        return convolution(operation, output, Tensor(operation.other(names.inputs[1])), first);
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR: // dy, x, dw
        return convolution(operation, Tensor(operation.other(names.inputs[1])), output, first);
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
        return pointwise(operation, first, output);
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
        return matmul(first, Tensor(operation.other(names.inputs[1])), output);
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
        return reduce(operation.other(names.function), first, output);
    default:
        return reshape(first, output);
    }
}

} // namespace

void run(const Descriptor& graph, const std::map<std::int64_t, void*>& memory, bool tf32) {
    Run work(memory, tf32);
    for (std::int64_t i = 0; i < graph.count(CUDNN_ATTR_OPERATIONGRAPH_OPS); ++i)
        work.operation(graph.other(CUDNN_ATTR_OPERATIONGRAPH_OPS, static_cast<std::size_t>(i)));
}

} // namespace tessera::emulation::cudnn
