// SPDX-License-Identifier: Apache-2.0
// The emulation's version of kernels/cuda/nvcc/cuda_language.cuh: the same names for host C++.
#pragma once

#include "tests/cuda_emulation/device/atomics.hpp"
#include "tests/cuda_emulation/device/execution.hpp"
#include "tests/cuda_emulation/device/intrinsics.hpp"
#include "tests/cuda_emulation/device/tensor_cores.hpp"
#include "tests/cuda_emulation/device/warp.hpp"

namespace tessera::cuda {

inline constexpr bool emulated = true;

// Called where bytes are loaded or stored at once: a GPU faults, and so must the emulation.
inline void require_alignment(const void* pointer, std::size_t bytes) {
    if (reinterpret_cast<std::uintptr_t>(pointer) % bytes != 0)
        emulation::fail("%p is not aligned to %zu bytes", pointer, bytes);
}

template <class... Parameters, class... Arguments>
cudaError_t launch_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
                          cudaStream_t stream, Arguments&&... arguments) {
    return emulation::launch(
        reinterpret_cast<const void*>(kernel), {grid, block, shared_bytes}, stream,
        std::make_shared<emulation::KernelCall<Parameters...>>(kernel, std::forward<Arguments>(arguments)...));
}

// ex2.approx.ftz
inline float power_of_two(float x) { return x < -126 ? 0 : std::exp2(x); }

} // namespace tessera::cuda
