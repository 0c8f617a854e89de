// SPDX-License-Identifier: Apache-2.0
// Anonymous mappings, asked to be huge pages: a first touch zeroes them, and a step over 500 MB saves most TLB misses.
#include "kernels/memory.hpp"

#include "kernels/error.hpp"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <sys/mman.h>
#include <utility>

namespace tessera {

Buffer::Buffer(std::int64_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    void* memory =
        mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        throw SystemError(fmt::format("cannot allocate {} bytes of memory: {}", bytes, std::strerror(errno)));
    madvise(memory, static_cast<std::size_t>(bytes), MADV_HUGEPAGE); // advice only: small pages work too
    data_ = memory;
}

Buffer::Buffer(void* data, std::int64_t bytes, void (*release)(void*), void* context)
    : data_(data), bytes_(bytes), release_(release), context_(context) {}

Buffer::~Buffer() {
    if (release_ != nullptr)
        release_(context_);
    else if (data_ != nullptr)
        munmap(data_, static_cast<std::size_t>(bytes_));
}

void Buffer::swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(release_, other.release_);
    std::swap(context_, other.context_);
}

} // namespace tessera
