// SPDX-License-Identifier: Apache-2.0
// Device memory as pages of the host that are opened and closed with mprotect.
#include "tests/cuda_emulation/runtime/device_memory.hpp"

#include "tests/cuda_emulation/device/execution.hpp"
#include "tests/cuda_emulation/device/fiber.hpp"
#include "tests/cuda_emulation/settings.hpp"

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <new>
#include <sys/mman.h>
#include <unistd.h>

namespace tessera::emulation {
namespace {

constexpr std::size_t page = 4096, alignment = 256; // of cudaMalloc
constexpr std::size_t range = std::size_t{64} << 30;
#ifdef TESSERA_EMULATION_ASAN
constexpr std::size_t quarantine = std::size_t{1} << 30; // an eighth of it is resident, as the sanitizer's shadow
#else
constexpr std::size_t quarantine = std::size_t{16} << 30;
#endif

std::size_t round_up(std::size_t bytes, std::size_t to) { return (bytes + to - 1) / to * to; }

#ifndef TESSERA_EMULATION_ASAN // which has its own words for it
const char* first_address = nullptr;
struct sigaction earlier;

// Says who touched device memory that is not there, then lets the signal do its work.
void explain(int signal, siginfo_t* what, void*) {
    const auto* const address = static_cast<const char*>(what->si_addr);
    if (address >= first_address && address < first_address + range) {
        char text[200], who[80] = "the host";
        if (current_thread != nullptr)
            std::snprintf(who, sizeof who, "a kernel (block %llu thread %u)",
                          static_cast<unsigned long long>(current_block.number), current_thread->number);
        const int length = std::snprintf(text, sizeof text, "CUDA emulation: %s touches device memory at %p: %s\n", who,
                                         static_cast<const void*>(address),
                                         current_thread != nullptr ? "freed, or beyond the end of what was allocated"
                                                                   : "device memory is for the device");
        if (write(STDERR_FILENO, text, static_cast<std::size_t>(length)) < 0) _exit(1);
    }
    sigaction(signal, &earlier, nullptr);
    if (what->si_code <= 0) raise(signal); // somebody sent it: no instruction will fail again
}
#endif

} // namespace

DeviceMemory::DeviceMemory() {
    void* const wish = reinterpret_cast<void*>(0x7d0000000000); // clear of what sanitizers reserve
    void* memory = mmap(wish, range, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    base_ = top_ = static_cast<char*>(memory);
#ifndef TESSERA_EMULATION_ASAN
    first_address = base_;
    struct sigaction action {};
    action.sa_sigaction = explain;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, &earlier);
#endif
}

DeviceMemory::Pages DeviceMemory::take_pages(std::size_t bytes) {
    if (freed_bytes_ > quarantine) {
        const auto fits = std::find_if(freed_.begin(), freed_.end(), [&](const Pages& p) { return p.bytes >= bytes; });
        if (fits != freed_.end()) {
            const Pages result = *fits;
            freed_.erase(fits);
            freed_bytes_ -= result.bytes;
            return result;
        }
    }
    if (bytes > static_cast<std::size_t>(base_ + range - top_)) return {nullptr, 0};
    top_ += bytes;
    return {top_ - bytes, bytes};
}

void* DeviceMemory::allocate(std::size_t bytes, int device) {
    if (bytes > range || used(device) + bytes > settings().memory) return nullptr;
    const std::size_t rounded = round_up(bytes, alignment), open_bytes = round_up(rounded, page);
    const Pages pages = take_pages(open_bytes + page);
    if (pages.first == nullptr) return nullptr;
    open();
    if (mprotect(pages.first, pages.bytes - page, PROT_READ | PROT_WRITE) != 0) {
        close();
        return nullptr;
    }
    char* const start = pages.first + (pages.bytes - page) - rounded; // what lies beyond its end is no memory
    TESSERA_EMULATION_POISON(pages.first, pages.bytes);
    TESSERA_EMULATION_UNPOISON(start, bytes);
    std::memset(start, settings().fill, bytes);
    close();
    pieces_[start] = {start, bytes, device};
    pages_[start] = pages;
    used_[device] += bytes;
    return start;
}

bool DeviceMemory::release(const void* start) {
    const auto piece = pieces_.find(static_cast<const char*>(start));
    if (piece == pieces_.end()) return false;
    const Pages pages = pages_[piece->first];
    madvise(pages.first, pages.bytes, MADV_DONTNEED);
    mprotect(pages.first, pages.bytes, PROT_NONE);
    TESSERA_EMULATION_POISON(pages.first, pages.bytes);
    freed_.push_back(pages);
    freed_bytes_ += pages.bytes;
    used_[piece->second.device] -= piece->second.bytes;
    pages_.erase(piece->first);
    pieces_.erase(piece);
    return true;
}

const DeviceMemory::Piece* DeviceMemory::find(const void* address) const {
    auto piece = pieces_.upper_bound(static_cast<const char*>(address));
    if (piece == pieces_.begin()) return nullptr;
    --piece;
    return address < piece->second.start + piece->second.bytes ? &piece->second : nullptr;
}

bool DeviceMemory::reserves(const void* address) const { return address >= base_ && address < base_ + range; }

std::size_t DeviceMemory::used(int device) const {
    const auto found = used_.find(device);
    return found == used_.end() ? 0 : found->second;
}

void DeviceMemory::open() {
    if (!settings().protect || opened_++ > 0) return;
    mprotect(base_, static_cast<std::size_t>(top_ - base_), PROT_READ | PROT_WRITE);
}

void DeviceMemory::close() {
    if (!settings().protect || --opened_ > 0) return;
    mprotect(base_, static_cast<std::size_t>(top_ - base_), PROT_NONE);
}

} // namespace tessera::emulation
