// SPDX-License-Identifier: Apache-2.0
// How fast this machine can multiply and add, measured: what "share of the peak" is a share of.
#pragma once

#include "kernels/stream.hpp"

namespace tessera::kernels {

// Operations per second (a multiply-add counts two) of f32 vector multiply-adds on all threads of the stream at once:
// the best of a few runs of some milliseconds each.
double measured_peak_flops(CpuStream& stream);
double measured_peak_flops(CudaStream& stream);

} // namespace tessera::kernels
