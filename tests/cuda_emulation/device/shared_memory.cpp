// SPDX-License-Identifier: Apache-2.0
// The shared memory of the running block: arrays apart from one another, filled with garbage for every block.
#include "tests/cuda_emulation/device/scheduler.hpp"

#include <new>
#include <sys/mman.h>

namespace tessera::emulation {
namespace {

constexpr std::size_t arena_bytes = 512 << 10;
constexpr std::size_t gap_bytes = 64; // behind an array, to be touched by mistake

char* map_arena() {
    void* memory =
        mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    return static_cast<char*>(memory);
}

} // namespace

SharedMemory::SharedMemory() : static_(map_arena()), dynamic_(map_arena()) {}

SharedMemory::~SharedMemory() {
    munmap(static_, arena_bytes);
    munmap(dynamic_, arena_bytes);
}

void SharedMemory::begin_launch(std::size_t dynamic_bytes) {
    arrays_.clear();
    static_end_ = static_bytes_ = 0;
    dynamic_bytes_ = dynamic_bytes;
    TESSERA_EMULATION_POISON(static_, arena_bytes);
    TESSERA_EMULATION_POISON(dynamic_, arena_bytes);
    TESSERA_EMULATION_UNPOISON(dynamic_, dynamic_bytes);
}

void SharedMemory::begin_block() {
    if (dynamic_bytes_ > 0) std::memset(dynamic_, settings().fill, dynamic_bytes_);
    for (const Array& array : arrays_)
        std::memset(array.start, settings().fill, array.bytes);
}

void SharedMemory::end_launch() {
    TESSERA_EMULATION_UNPOISON(static_, arena_bytes);
    TESSERA_EMULATION_UNPOISON(dynamic_, arena_bytes);
}

void* SharedMemory::array(const void* key, std::size_t bytes, std::size_t alignment) {
    for (const Array& array : arrays_)
        if (array.key == key) return array.start;
    static_bytes_ += bytes;
    if (static_bytes_ > hopper::shared_per_block)
        fail("%zu bytes of static shared memory, there are %zu", static_bytes_, hopper::shared_per_block);
    if (static_bytes_ + dynamic_bytes_ > current_block.shared_limit)
        fail("%zu bytes of static and %zu of dynamic shared memory, %u are allowed", static_bytes_, dynamic_bytes_,
             current_block.shared_limit);
    char* const start = static_ + (static_end_ + alignment - 1) / alignment * alignment;
    static_end_ = static_cast<std::size_t>(start - static_) + bytes + gap_bytes;
    if (static_end_ > arena_bytes) fail("too many arrays in shared memory");
    arrays_.push_back({key, start, bytes});
    TESSERA_EMULATION_UNPOISON(start, bytes);
    std::memset(start, settings().fill, bytes);
    return start;
}

bool SharedMemory::near(const void* address) const {
    return (address >= static_ && address < static_ + arena_bytes) ||
           (address >= dynamic_ && address < dynamic_ + arena_bytes);
}

bool SharedMemory::holds(const void* address, std::size_t bytes) const {
    const auto [start, size] = find(address);
    return start != nullptr && static_cast<const char*>(address) + bytes <= start + size;
}

std::pair<const char*, std::size_t> SharedMemory::find(const void* address) const {
    if (address >= dynamic_ && address < dynamic_ + dynamic_bytes_) return {dynamic_, dynamic_bytes_};
    for (const Array& array : arrays_)
        if (address >= array.start && address < array.start + array.bytes) return {array.start, array.bytes};
    return {nullptr, 0};
}

void* static_shared(const void* key, std::size_t bytes, std::size_t alignment) {
    return scheduler->shared.array(key, bytes, alignment);
}

} // namespace tessera::emulation
