// SPDX-License-Identifier: Apache-2.0
// What the substitutes of cuBLASLt, cuDNN and NCCL, and the checker, need of the substitute of the CUDA runtime.
#pragma once

#include <cstddef>
#include <cuda_runtime_api.h>
#include <functional>

namespace tessera::emulation {

// Puts work on the stream. An exception in it breaks the device for good, as a failing kernel does. `ordered` work runs
// in the order of its submission whatever its stream: of a collective, so that the ranks agree.
cudaError_t submit(cudaStream_t stream, std::function<void()> work, const char* name, bool ordered = false);

struct Memory { // that a kernel may touch
    const char* start = nullptr;
    std::size_t bytes = 0;
    int device = -1; // or -1: of the host, if anything
};
// The piece that holds the address: device memory, or memory of the host that is pinned. Empty: none.
Memory find_memory(const void* address);

} // namespace tessera::emulation
