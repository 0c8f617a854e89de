// SPDX-License-Identifier: Apache-2.0
// Products on the GPU: the library's, the ones over no terms, and a bias as the library wants it.
#include "kernels/matmul.hpp"

#include "kernels/copy.hpp"
#include "kernels/cuda/cublaslt.hpp"
#include "kernels/cuda/device.hpp"
#include "kernels/cuda/trials.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/matmul_check.hpp"

namespace tessera::kernels {
namespace {

// What NVIDIA recommends for Hopper (cuBLAS, cublasSetWorkspace); less leaves out algorithms that split k.
constexpr std::int64_t library_bytes = 32 << 20;
constexpr std::int64_t library_alignment = 256; // more than a plan gives: the room for it is part of the workspace
constexpr std::int64_t bias_alignment = 16;

constexpr std::int64_t round_up(std::int64_t bytes) {
    return (bytes + library_alignment - 1) / library_alignment * library_alignment;
}

// Bytes from the last multiple of `alignment`.
std::int64_t bytes_over(const void* pointer, std::int64_t alignment) {
    return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(pointer)) & (alignment - 1);
}

// The workspace: the library's part at a multiple of 256 bytes, and behind it the bias, where it is copied.
std::int64_t wanted_bytes(const Matmul& product) {
    if (product.m == 0 || product.n == 0 || product.k == 0) return 0;
    const std::int64_t bias_bytes = product.bias ? product.n * bytes_of(cuda::bias_dtype(product)) : 0;
    return library_alignment + library_bytes + round_up(bias_bytes);
}

// c = [c] [+ bias]
void multiply_nothing(CudaStream& stream, const Matmul& product, const ConstView& bias, const View& c) {
    if (!product.accumulate)
        cuda::check(cudaMemsetAsync(c.memory(), 0, static_cast<std::size_t>(c.bytes()), stream.state().stream),
                    "cudaMemsetAsync", c.bytes());
    if (product.bias) add_rows(stream, c, bias, c);
}

} // namespace

void try_product(CudaStream& stream, const ChoiceWords& asked) {
    const Matmul product{.m = asked.at(1),
                         .n = asked.at(2),
                         .k = asked.at(3),
                         .transpose_a = asked.at(4) != 0,
                         .transpose_b = asked.at(5) != 0,
                         .input = static_cast<DType>(asked.at(6)),
                         .output = static_cast<DType>(asked.at(7)),
                         .bias = asked.at(8) != 0,
                         .accumulate = asked.at(9) != 0};
    const cuda::TrialOperand a(stream, product.input, product.m * product.k);
    const cuda::TrialOperand b(stream, product.input_b(), product.k * product.n), bias(stream, DType::f32, product.n);
    const cuda::TrialOperand c(stream, product.output, product.m * product.n), scales(stream, DType::f32, 2);
    const cuda::TrialOperand workspace(stream, DType::f32, (wanted_bytes(product) + 3) / 4);
    auto* scale = static_cast<float*>(scales.view().memory());
    const bool scaled = bytes_of(product.input) == 1;
    matmul(stream, product, a.view(), b.view(), product.bias ? ConstView(bias.view()) : ConstView(), c.view(),
           workspace.view(),
           scaled ? MatmulScales{View(scale, {1}, DType::f32), View(scale + 1, {1}, DType::f32)} : MatmulScales());
}

bool matmul_has_f8(const CudaStream& stream) {
    const auto attribute = [&](cudaDeviceAttr which) {
        int value = 0;
        cuda::check(cudaDeviceGetAttribute(&value, which, stream.device()), "cudaDeviceGetAttribute");
        return value;
    };
    return 10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor) >= 89;
}

std::int64_t matmul_workspace_bytes(const CudaStream& stream, const Matmul& product) {
    check_dtypes(product);
    if (product.m > 0 && product.n > 0 && product.k > 0) cuda::note_asked(stream, cuda::asked_words(product));
    return wanted_bytes(product);
}

void matmul(CudaStream& stream, const Matmul& product, ConstView a, ConstView b, ConstView bias, View c, View workspace,
            const MatmulScales& scales) {
    check_operands(product, a, b, bias, c, workspace, wanted_bytes(product), scales);
    if (product.m == 0 || product.n == 0) return;
    if (product.k == 0) return multiply_nothing(stream, product, bias, c);
    auto* memory = static_cast<std::byte*>(workspace.memory());
    memory += library_alignment - bytes_over(memory, library_alignment);
    cuda::ProductOperands operands{.a = a.data,
                                   .b = b.data,
                                   .bias = bias.data,
                                   .c = c.memory(),
                                   .scale_a = scales.a.data,
                                   .scale_b = scales.b.data,
                                   .workspace = memory,
                                   .workspace_bytes = library_bytes};
    const DType bias_dtype = cuda::bias_dtype(product);
    if (product.bias && (bias_dtype != DType::f32 || bytes_over(bias.data, bias_alignment) != 0)) {
        const View copied(memory + library_bytes, {product.n}, bias_dtype);
        cast(stream, bias, copied);
        operands.bias = copied.data;
    }
    cuda::multiply(stream, product, operands);
}

} // namespace tessera::kernels
