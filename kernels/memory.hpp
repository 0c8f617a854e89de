// SPDX-License-Identifier: Apache-2.0
// Memory with one owner. The plan says how many bytes a run needs of each kind; a Buffer holds them.
#pragma once

#include "kernels/stream.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>

namespace tessera {

// Every tensor in a planned buffer starts at a multiple of this (a cache line, and an AVX-512 register).
inline constexpr std::int64_t alignment_bytes = 64;

constexpr std::int64_t align_up(std::int64_t bytes) {
    return (bytes + alignment_bytes - 1) / alignment_bytes * alignment_bytes;
}

// Zeroed host memory, page-aligned, in huge pages where the system allows. Move-only; empty after a move.
class Buffer {
public:
    Buffer() = default;
    explicit Buffer(std::int64_t bytes); // throws SystemError with the size when there is not enough memory
    // Memory that somebody else made (a shared window): `release` is called once with the pointer.
    Buffer(void* data, std::int64_t bytes, void (*release)(void* context), void* context);
    Buffer(Buffer&& other) noexcept { swap(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Buffer();

    std::byte* data() const { return static_cast<std::byte*>(data_); }
    std::int64_t bytes() const { return bytes_; }

private:
    void swap(Buffer& other) noexcept;

    void* data_ = nullptr;
    std::int64_t bytes_ = 0;
    void (*release_)(void*) = nullptr;
    void* context_ = nullptr;
};

// Zeroed memory where the kernels of this stream work: the host's, or the GPU's. Throws SystemError with the size.
inline Buffer allocate(const CpuStream&, std::int64_t bytes) { return Buffer(bytes); }
Buffer allocate(const CudaStream& stream, std::int64_t bytes);

// Zeroed memory of the host from which uploads to the stream are fastest (pinned, for a GPU).
inline Buffer allocate_host(const CpuStream&, std::int64_t bytes) { return Buffer(bytes); }
Buffer allocate_host(const CudaStream& stream, std::int64_t bytes);

// What can still be allocated there, as far as it is known: a host promises more than it has.
inline std::int64_t free_bytes(const CpuStream&) { return INT64_MAX; }
std::int64_t free_bytes(const CudaStream& stream);

} // namespace tessera
