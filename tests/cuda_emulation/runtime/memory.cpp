// SPDX-License-Identifier: Apache-2.0
// Allocation on the devices and of pinned memory of the host, and what a pointer is.
#include "tests/cuda_emulation/runtime/state.hpp"

#include "tests/cuda_emulation/settings.hpp"

#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace tessera::emulation {
namespace {

Memory find_pinned(const void* address) {
    const char* const at = static_cast<const char*>(address);
    auto piece = state().pinned.upper_bound(at);
    if (piece == state().pinned.begin()) return {};
    --piece;
    return at < piece->first + piece->second ? Memory{piece->first, piece->second, -1} : Memory{};
}

cudaError_t allocate(void** memory, std::size_t bytes) {
    *memory = nullptr;
    if (state().broken) return report(state().broken);
    if (bytes == 0) return cudaSuccess;
    *memory = state().memory.allocate(bytes, current_device());
    return report(*memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}

void release(const void* memory) {
    const Locked locked;
    if (!state().memory.release(memory)) throw std::runtime_error("not allocated");
}

} // namespace

bool is_pinned(const void* address) { return find_pinned(address).start != nullptr; }

Memory find_memory(const void* address) {
    const Locked locked;
    if (const DeviceMemory::Piece* piece = state().memory.find(address))
        return {piece->start, piece->bytes, piece->device};
    return find_pinned(address);
}

} // namespace tessera::emulation

using namespace tessera::emulation;

extern "C" {

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
    const Locked locked;
    if (const cudaError_t error = refuse_in_capture()) return error;
    return allocate(memory, bytes);
}

cudaError_t cudaFree(void* memory) {
    const Locked locked;
    if (const cudaError_t error = refuse_in_capture()) return error;
    if (memory == nullptr) return cudaSuccess;
    const DeviceMemory::Piece* const piece = state().memory.find(memory);
    if (piece == nullptr || piece->start != memory) return report(cudaErrorInvalidValue);
    const cudaError_t error = finish_device(piece->device);
    state().memory.release(memory);
    return error;
}

// In a capture the real ones would become nodes that allocate: not here.
cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t stream) {
    const Locked locked;
    const cudaStream_t on = find_stream(stream);
    if (on == nullptr) return report(cudaErrorInvalidResourceHandle);
    if (on->capture) return break_capture(on->capture, cudaErrorStreamCaptureUnsupported);
    return allocate(memory, bytes);
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
    const Locked locked;
    const cudaStream_t on = find_stream(stream);
    if (on == nullptr) return report(cudaErrorInvalidResourceHandle);
    if (on->capture) return break_capture(on->capture, cudaErrorStreamCaptureUnsupported);
    return put(on, {"cudaFreeAsync", [memory] { release(memory); }, false, nullptr, nullptr});
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
    const Locked locked;
    *total = settings().memory;
    *free = *total - state().memory.used(current_device());
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
    const Locked locked;
    *memory = nullptr;
    if (const cudaError_t error = refuse_in_capture()) return error;
    if (state().broken) return report(state().broken);
    if (bytes == 0) return cudaSuccess;
    *memory = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (*memory == nullptr) return report(cudaErrorMemoryAllocation);
    std::memset(*memory, settings().fill, bytes);
    state().pinned[static_cast<char*>(*memory)] = bytes;
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
    return cudaHostAlloc(memory, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void* memory) {
    const Locked locked;
    if (const cudaError_t error = refuse_in_capture()) return error;
    if (memory == nullptr) return cudaSuccess;
    const cudaError_t error = finish_device(current_device());
    if (state().pinned.erase(static_cast<char*>(memory)) == 0) return report(cudaErrorInvalidValue);
    std::free(memory);
    return error;
}

cudaError_t cudaHostRegister(void* memory, std::size_t bytes, unsigned) {
    const Locked locked;
    if (is_pinned(memory)) return report(cudaErrorHostMemoryAlreadyRegistered);
    state().pinned[static_cast<char*>(memory)] = bytes;
    return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* memory) {
    const Locked locked;
    return report(state().pinned.erase(static_cast<char*>(memory)) == 0 ? cudaErrorHostMemoryNotRegistered
                                                                        : cudaSuccess);
}

cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
    const Locked locked;
    if (!is_pinned(host)) return report(cudaErrorInvalidValue);
    *device = host; // one space of addresses
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
    const Memory memory = find_memory(pointer);
    *attributes = {};
    attributes->type = memory.start == nullptr ? cudaMemoryTypeUnregistered
                       : memory.device < 0     ? cudaMemoryTypeHost
                                               : cudaMemoryTypeDevice;
    attributes->device = memory.start == nullptr ? cudaInvalidDeviceId : memory.device < 0 ? 0 : memory.device;
    if (memory.start != nullptr) attributes->devicePointer = const_cast<void*>(pointer);
    if (memory.device < 0) attributes->hostPointer = const_cast<void*>(pointer);
    return cudaSuccess;
}

} // extern "C"
