// SPDX-License-Identifier: Apache-2.0
// Earlier names of runtime/runtime.hpp, for emu_blas.cpp and emu_nccl.cpp.
#pragma once

#include "tests/cuda_emulation/runtime/runtime.hpp"

#include <cstdint>
#include <utility>

namespace emu {

inline cudaError_t enqueue_op(cudaStream_t stream, std::function<void()> work, const char* name, bool ordered) {
    return tessera::emulation::submit(stream, std::move(work), name, ordered);
}
// `left`: bytes from there to the end of the piece.
inline bool is_device(const void* pointer, std::size_t* left = nullptr) {
    const tessera::emulation::Memory piece = tessera::emulation::find_memory(pointer);
    if (left != nullptr)
        *left = piece.bytes - static_cast<std::size_t>(static_cast<const char*>(pointer) - piece.start);
    return piece.device >= 0;
}

} // namespace emu
