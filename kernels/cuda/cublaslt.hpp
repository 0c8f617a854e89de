// SPDX-License-Identifier: Apache-2.0
// Products by cuBLASLt: how the library is told of one, and which of its algorithms runs. What matmul promises beyond
// what the library can do (no terms at all, any bias) is matmul.cpp's.
#pragma once

#include "kernels/library_choices.hpp"
#include "kernels/matmul.hpp"

namespace tessera::cuda {

// Where one product finds its operands on the GPU.
struct ProductOperands {
    const void* a = nullptr;
    const void* b = nullptr;
    const void* bias = nullptr; // of bias_dtype, aligned to 16 bytes; null without one
    void* c = nullptr;
    const void* scale_a = nullptr; // of 8-bit factors
    const void* scale_b = nullptr;
    void* workspace = nullptr; // aligned to 256 bytes
    std::int64_t workspace_bytes = 0;
};

// The only dtype of bias that the library adds: c's, or bf16 where the factors have 8 bits (cuBLAS, cublasLtMatmul).
constexpr DType bias_dtype(const Matmul& product) {
    const bool f8 = product.input == DType::f8e4m3 || product.input == DType::f8e5m2;
    return f8 ? DType::bf16 : product.output;
}

// As kernels/library_choices.hpp has what is asked.
ChoiceWords asked_words(const Matmul& product);

// Of the library: 130100 for 13.1.
std::size_t products_version();

// c = a' b' [+ bias] [+ c] in the stream's order; m, n and k are positive. Throws SystemError when the library refuses.
void multiply(CudaStream& stream, const Matmul& product, const ProductOperands& operands);

} // namespace tessera::cuda
