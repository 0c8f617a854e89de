// SPDX-License-Identifier: Apache-2.0
// Sixty-four bits that tell tensors apart which should be the same, bit by bit, on several ranks.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>
#include <span>

namespace tessera::kernels {

// sums[t] = sum over i of mix(i * odd_1 + bits(x[t][i]) * odd_2) mod 2^64, low word first; mix is splitmix64's (Steele,
// Lea, Flood 2014), a bijection, so that tensors which differ in one element never have the same sum. Sums of integers
// have no order: the same on every kind of device.
// x[t]: f32 or i32 (any 4 bytes)    sums: (x.size(), 2) i32
void fingerprints(CpuStream& stream, std::span<const View> x, View sums);
void fingerprints(CudaStream& stream, std::span<const View> x, View sums);

} // namespace tessera::kernels
