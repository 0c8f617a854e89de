// SPDX-License-Identifier: Apache-2.0
// Copies and fills. Pageable memory of the host is read before the call returns and written before it returns, as CUDA
// does it; pinned memory is touched when the stream gets there.
#include "tests/cuda_emulation/runtime/state.hpp"

#include <cstring>

using namespace tessera::emulation;

namespace {

// Device memory must lie in one piece.
bool all_there(const void* memory, std::size_t bytes) {
    if (!state().memory.reserves(memory)) return true;
    const DeviceMemory::Piece* const piece = state().memory.find(memory);
    return piece != nullptr && static_cast<const char*>(memory) + bytes <= piece->start + piece->bytes;
}

bool direction_is(cudaMemcpyKind kind, bool from_device, bool to_device) {
    if (kind == cudaMemcpyDefault) return true;
    return from_device == (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice) &&
           to_device == (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice);
}

cudaError_t copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    if (stream == nullptr) return report(cudaErrorInvalidResourceHandle);
    if (bytes == 0) return report(state().broken);
    if (to == nullptr || from == nullptr || !all_there(to, bytes) || !all_there(from, bytes))
        return report(cudaErrorInvalidValue);
    const bool from_device = state().memory.reserves(from), to_device = state().memory.reserves(to);
    if (!direction_is(kind, from_device, to_device)) return report(cudaErrorInvalidMemcpyDirection);
    if (!stream->capture && !from_device && !is_pinned(from)) {
        const auto bytes_now =
            std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
        const auto write = [to, bytes_now] { std::memcpy(to, bytes_now->data(), bytes_now->size()); };
        if (const cudaError_t error = put(stream, {"cudaMemcpyAsync", write, false, nullptr, nullptr})) return error;
    } else {
        const auto move = [to, from, bytes] { std::memmove(to, from, bytes); };
        if (const cudaError_t error = put(stream, {"cudaMemcpyAsync", move, false, nullptr, nullptr})) return error;
    }
    return stream->capture || to_device || is_pinned(to) ? cudaSuccess : finish(stream);
}

cudaError_t fill(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
    if (stream == nullptr) return report(cudaErrorInvalidResourceHandle);
    if (bytes == 0) return report(state().broken);
    if (!state().memory.reserves(memory) || !all_there(memory, bytes)) return report(cudaErrorInvalidValue);
    const auto work = [memory, value, bytes] { std::memset(memory, value, bytes); };
    return put(stream, {"cudaMemsetAsync", work, false, nullptr, nullptr});
}

} // namespace

extern "C" {

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    const Locked locked;
    return copy(to, from, bytes, kind, find_stream(stream));
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    const Locked locked;
    if (const cudaError_t error = refuse_in_capture()) return error;
    if (const cudaError_t error = copy(to, from, bytes, kind, find_stream(nullptr))) return error;
    return finish(find_stream(nullptr));
}

cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, std::size_t bytes, cudaStream_t stream) {
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
}

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
    const Locked locked;
    if (width > to_pitch || width > from_pitch) return report(cudaErrorInvalidPitchValue);
    for (std::size_t row = 0; row < height; ++row)
        if (const cudaError_t error =
                copy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch, width,
                     kind, find_stream(stream)))
            return error;
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
    const Locked locked;
    return fill(memory, value, bytes, find_stream(stream));
}

cudaError_t cudaMemset(void* memory, int value, std::size_t bytes) { // does not wait, as the real one
    const Locked locked;
    if (const cudaError_t error = refuse_in_capture()) return error;
    return fill(memory, value, bytes, find_stream(nullptr));
}

} // extern "C"
