// SPDX-License-Identifier: Apache-2.0
// Launches of kernels, with the limits of Hopper, and what may be asked about a kernel.
#include "tests/cuda_emulation/device/execution.hpp"
#include "tests/cuda_emulation/hopper.hpp"
#include "tests/cuda_emulation/runtime/state.hpp"

#include <algorithm>

namespace tessera::emulation {
namespace {

bool fits(const Shape& shape) {
    const dim3 &grid = shape.grid, &block = shape.block;
    return grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x < 1u << 31 && grid.y < 65536 && grid.z < 65536 &&
           block.x > 0 && block.y > 0 && block.z > 0 && block.x <= hopper::threads_per_block &&
           block.y <= hopper::threads_per_block && block.z <= 64 &&
           block.x * block.y * block.z <= hopper::threads_per_block;
}

// Of static and dynamic shared memory together.
std::size_t shared_limit(const void* function) {
    const auto found = state().shared_limits.find(function);
    return found == state().shared_limits.end() ? hopper::shared_per_block : static_cast<std::size_t>(found->second);
}

} // namespace

cudaError_t launch(const void* function, const Shape& shape, cudaStream_t stream,
                   std::shared_ptr<const Kernel> kernel) {
    const Locked locked;
    const cudaStream_t on = find_stream(stream);
    if (on == nullptr || on->device != current_device()) return report(cudaErrorInvalidResourceHandle);
    if (!fits(shape)) return report(cudaErrorInvalidConfiguration);
    const std::size_t limit = shared_limit(function);
    if (shape.shared_bytes > limit) return report(cudaErrorInvalidValue);
    const bool opted_in = limit > hopper::shared_per_block; // then static memory comes on top
    const auto allowed =
        static_cast<std::uint32_t>(opted_in ? hopper::shared_per_block_opted_in : hopper::shared_per_block);
    const auto run = [shape, allowed, kernel = std::move(kernel), device = on->device] {
        current_block.device = device;
        run_grid(shape, allowed, *kernel);
    };
    return put(on, {"kernel", run, false, nullptr, nullptr});
}

} // namespace tessera::emulation

using namespace tessera::emulation;

extern "C" {

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
    const Locked locked;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess; // only hints
    if (value < 0 || static_cast<std::size_t>(value) > hopper::shared_per_block_opted_in)
        return report(cudaErrorInvalidValue);
    state().shared_limits[function] = std::max(value, static_cast<int>(hopper::shared_per_block));
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
    const Locked locked;
    *attributes = {};
    attributes->maxThreadsPerBlock = hopper::threads_per_block;
    attributes->numRegs = 32;
    attributes->ptxVersion = attributes->binaryVersion = 90;
    attributes->maxDynamicSharedSizeBytes = static_cast<int>(shared_limit(function));
    return cudaSuccess;
}

// Registers and static shared memory are not counted.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* function, int threads,
                                                                   std::size_t dynamic_bytes, unsigned) {
    const Locked locked;
    if (threads < 1 || static_cast<unsigned>(threads) > hopper::threads_per_block) return report(cudaErrorInvalidValue);
    const unsigned by_threads = hopper::threads_per_multiprocessor / (static_cast<unsigned>(threads + 31) / 32 * 32);
    const auto by_shared =
        static_cast<unsigned>(hopper::shared_per_multiprocessor / (dynamic_bytes + hopper::shared_reserved_per_block));
    *blocks = static_cast<int>(std::min({hopper::blocks_per_multiprocessor, by_threads, by_shared}));
    if (dynamic_bytes > shared_limit(function)) *blocks = 0;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function, int threads,
                                                          std::size_t dynamic_bytes) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, dynamic_bytes,
                                                                  cudaOccupancyDefault);
}

} // extern "C"
