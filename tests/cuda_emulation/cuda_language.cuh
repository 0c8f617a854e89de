// SPDX-License-Identifier: Apache-2.0
// The emulation's version of kernels/cuda/nvcc/cuda_language.cuh: the same names for host C++.
#pragma once

#include "emu.h"

namespace tessera::cuda {

inline constexpr bool emulated = true;

template <class... Parameters, class... Arguments>
cudaError_t launch_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
                          cudaStream_t stream, Arguments&&... arguments) {
    if (const cudaError_t error = emu::check_launch(reinterpret_cast<const void*>(kernel), grid, block, shared_bytes))
        return error;
    return emu::enqueue(
        stream,
        [=, values = std::tuple<std::remove_cv_t<Parameters>...>(static_cast<Parameters>(arguments)...)]() mutable {
            auto call = [k = kernel, &values] { std::apply(k, values); };
            emu::run(
                grid, block, shared_bytes, [](void* f) { (*static_cast<decltype(call)*>(f))(); }, &call, sizeof call,
                &values, sizeof values);
        },
        "kernel");
}

inline float power_of_two(float x) { return x < -126 ? 0 : std::exp2(x); }

#include "emu_mma.h"

inline void copy_16_bytes_if(bool there, void* to_shared, const void* from_global) {
    if (there)
        copy_16_bytes(to_shared, from_global);
    else
        std::memset(to_shared, 0, 16);
}

} // namespace tessera::cuda
