// SPDX-License-Identifier: Apache-2.0
// Twins of the PTX wrappers of kernels/cuda/nvcc/cuda_language.cuh: ldmatrix, mma.sync and cp.async.
#pragma once

#include "tests/cuda_emulation/device/warp.hpp"

namespace tessera::emulation {

void wait_for_copies(std::size_t groups_left);

} // namespace tessera::emulation

namespace tessera::cuda {

// Rows must be 16-byte aligned. The first lane to go on reads for all, as the hardware does in one step.
void load_matrix_x4(std::uint32_t (&to)[4], const void* row, TESSERA_SITE);
void load_matrix_x4_transposed(std::uint32_t (&to)[4], const void* row, TESSERA_SITE);

void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], __nv_bfloat16, TESSERA_SITE);
void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], __half, TESSERA_SITE);

// The target is garbage until its group is waited for, and the source is read only then.
void copy_16_bytes(void* to_shared, const void* from_global);
void copy_16_bytes_if(bool there, void* to_shared, const void* from_global); // or zeros, no sooner
void end_copy_group();
template <int groups_left> void wait_for_copies() { emulation::wait_for_copies(groups_left); }

} // namespace tessera::cuda
