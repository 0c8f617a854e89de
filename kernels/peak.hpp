// SPDX-License-Identifier: Apache-2.0
// How fast this machine can multiply and add: what "share of the peak" is a share of.
#pragma once

#include "kernels/stream.hpp"

namespace tessera::kernels {

// Operations per second; a multiply-add counts two.
// CPU: of f32 vector multiply-adds on all threads of the stream at once, measured: the best of a few runs of some
// milliseconds each.
// GPU: of dense bf16 products with f32 sums on the tensor cores, from the number of multiprocessors and the clock that
// the maker's published figure counts with (989e12 for H100 and H200 SXM); 0 for a GPU that is not known.
double peak_flops(CpuStream& stream);
double peak_flops(CudaStream& stream);

} // namespace tessera::kernels
