// SPDX-License-Identifier: Apache-2.0
// Earlier names of runtime/runtime.hpp, for emu_blas.cpp and emu_nccl.cpp.
#pragma once

#include "tests/cuda_emulation/runtime/runtime.hpp"

#include <utility>

namespace emu {

inline cudaError_t enqueue_op(cudaStream_t stream, std::function<void()> work, const char* name, bool ordered) {
    return tessera::emulation::submit(stream, std::move(work), name, ordered);
}
inline bool is_device(const void* pointer) { return tessera::emulation::find_memory(pointer).device >= 0; }

} // namespace emu
