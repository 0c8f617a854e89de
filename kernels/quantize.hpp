// SPDX-License-Identifier: Apache-2.0
// Tensors in 8 bits with one scale for all elements, as the fp8 products of matmul want them.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

namespace tessera::kernels {

// Where quantize writes. The numbers themselves are asked for as they lie, transposed, or both (products of fp8 run
// along rows only, and the gradients of a linear layer along both of its dims).
struct Quantized {
    View y;          // (R, C) f8e4m3 or f8e5m2; may have null data
    View transposed; // (C, R) of the same dtype; may have null data
    View amax;       // one f32: the largest magnitude of x
    View scale;      // one f32: x is about scale * y

    DType dtype() const { return bytes_of(y.dtype) == 1 ? y.dtype : transposed.dtype; }
};

// scale = amax / the largest number of the dtype     y = x * (that number / amax), rounded to nearest even
// x: (R, C) f32 or bf16, C being its last dim and R all others. An amax below smallest_amax is taken for that. Where x
// holds a NaN or an infinity, scale is not finite either, so that a product with y is NaN. The same bits on every
// device. Throws InternalError for views of other sizes or dtypes.
inline constexpr float smallest_amax = 1e-30f;
void quantize(CpuStream& stream, ConstView x, const Quantized& result);
void quantize(CudaStream& stream, ConstView x, const Quantized& result);

// The checks of both, and the sizes of x.
struct RowsAndColumns {
    std::int64_t rows, columns;
};
RowsAndColumns check_quantized(const ConstView& x, const Quantized& result);

} // namespace tessera::kernels
