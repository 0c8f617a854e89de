// SPDX-License-Identifier: Apache-2.0
// Copies between element types, and memory filled with one value.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

namespace tessera::kernels {

// y[i] = x[i] in y's type: a plain copy when the types are equal, rounded to nearest even from f32 to bf16.
// Both f32 or bf16, or both i32; equal counts; else InternalError. The views do not overlap.
void cast(CpuStream& stream, ConstView x, View y);

// y: f32 or bf16
void fill(CpuStream& stream, View y, float value);

} // namespace tessera::kernels
