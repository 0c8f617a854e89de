// SPDX-License-Identifier: Apache-2.0
// Products by cuBLASLt: how the library is told of one, and which of its algorithms runs. What matmul promises beyond
// what the library can do (no terms at all, any bias) is matmul.cpp's.
#pragma once

#include "kernels/matmul.hpp"

namespace tessera::cuda {

// Where one product finds its operands on the GPU.
struct ProductOperands {
    const void* a = nullptr;
    const void* b = nullptr;
    const void* bias = nullptr; // of c's dtype, aligned to 16 bytes; null without one
    void* c = nullptr;
    void* workspace = nullptr; // aligned to 256 bytes
    std::int64_t workspace_bytes = 0;
};

// c = a' b' [+ bias] [+ c] in the stream's order; m, n and k are positive. Throws SystemError when the library refuses.
void multiply(CudaStream& stream, const Matmul& product, const ProductOperands& operands);

} // namespace tessera::cuda
