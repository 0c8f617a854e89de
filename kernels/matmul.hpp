// SPDX-License-Identifier: Apache-2.0
// Matrix products: what one is, what memory it needs beside its operands, and the call.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <compare>

namespace tessera {

// The description of one product: c = a' b' [+ bias] [+ c]      a': (M, K)   b': (K, N)   c: (M, N)   bias: (N)
// Sums are taken in fp32 whatever the dtypes. Any of m, n, k may be 0; with k == 0 the product is zero.
struct Matmul {
    std::int64_t m = 0, n = 0, k = 0;
    bool transpose_a = false;  // a is stored as (K, M)
    bool transpose_b = false;  // b is stored as (N, K)
    DType input = DType::f32;  // of a and b: f32, bf16, f16 or f8e4m3; or f8e5m2 of a and f8e4m3 of b
    DType output = DType::f32; // of c: f32; or f16 of f16 factors, bf16 of bf16 or 8-bit ones
    bool bias = false;         // bias is f32
    bool accumulate = false;   // add to what c holds

    DType input_b() const { return input == DType::f8e5m2 ? DType::f8e4m3 : input; }
    auto operator<=>(const Matmul&) const = default;
};

// What the elements of 8-bit factors are multiplied by: views of one f32 each, where the stream works. Null data for
// other factors.
struct MatmulScales {
    ConstView a, b;
};

namespace kernels {

// Whether a product may be asked for with 8-bit factors: a as it is, b transposed, and whole vectors of 16 bytes along
// k and n (the library's conditions on Hopper). kernels/quantize.hpp makes such factors, transposed where need be.
constexpr bool matmul_fits_f8(const Matmul& product) {
    return !product.transpose_a && product.transpose_b && product.n % 16 == 0 && product.k % 16 == 0;
}

// Bytes of the workspace that matmul wants for this product on this stream; 0 means none. Throws InternalError for
// dtypes that no product has. On a GPU the sizes alone decide, and no GPU is asked.
std::int64_t matmul_workspace_bytes(const CpuStream& stream, const Matmul& product);
std::int64_t matmul_workspace_bytes(const CudaStream& stream, const Matmul& product);

// Views may have any shape with the right count. `bias` has null data when the product has none; `workspace` is of any
// dtype, aligned to 64 bytes, and may be null where 0 bytes are wanted. c overlaps neither a, b nor bias.
// Gives the same bits for any number of threads and in each run. Throws InternalError for a view of a wrong size or
// dtype.
// On a GPU: the first product of a description prepares it; the bits depend on the description and on which of a, b and
// c are aligned to 16 bytes (8-bit factors must be, and so must their c); a bias is rounded to c's dtype, or to bf16
// where the factors have 8 bits; SystemError when the library refuses, as it does 8-bit factors before compute
// capability 8.9 (matmul_has_f8). On the CPU 8-bit factors are widened, and multiplied as f32.
void matmul(CpuStream& stream, const Matmul& product, ConstView a, ConstView b, ConstView bias, View c, View workspace,
            const MatmulScales& scales = {});
void matmul(CudaStream& stream, const Matmul& product, ConstView a, ConstView b, ConstView bias, View c, View workspace,
            const MatmulScales& scales = {});

// Whether products of 8-bit factors run where the stream works (no stream for planning).
bool matmul_has_f8(const CpuStream& stream);
bool matmul_has_f8(const CudaStream& stream);

// Whether this machine's processor multiplies bf16 faster than f32; where it does not, bf16 products are right but
// slow.
bool matmul_has_fast_bf16();

} // namespace kernels
} // namespace tessera
