// SPDX-License-Identifier: Apache-2.0
// Who touched which bytes in the running launch: for every four bytes the last writes and reads, with the barriers that
// came before them. One access is compared with these; two without a barrier between are a race. Eight bytes an access,
// because the checker lives on the processor's caches.
#pragma once

#include "tests/cuda_emulation/device/execution.hpp"

#include <array>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace tessera::emulation {

// One access, without its address. Zeros: none.
class Record {
public:
    Record() = default;
    Record(std::uint64_t block, std::uint64_t thread, std::uint64_t epoch, std::uint64_t warp_epoch, std::uint64_t code,
           bool atomic)
        : bits_(block << 48 | thread << 38 | (epoch & 0xfff) << 26 | (warp_epoch & 0xfff) << 14 | code << 5 |
                std::uint64_t{atomic} << 4) {}

    Record on(std::uint64_t bytes) const { return Record(bits_ | bytes); } // a set of the four
    std::uint64_t bytes() const { return bits_ & 0xf; }
    bool atomic() const { return bits_ >> 4 & 1; }
    std::uint32_t code() const { return bits_ >> 5 & 0x1ff; }
    std::uint32_t thread() const { return bits_ >> 38 & 0x3ff; }
    std::uint32_t block() const { return static_cast<std::uint32_t>(bits_ >> 48); } // the last 16 bits of its number

    bool same_moment(Record other) const { return (bits_ ^ other.bits_) >> 14 == 0; } // same thread, no barrier between
    bool same_warp(Record other) const { // and no barrier of the block between
        return ((bits_ ^ other.bits_) & (~std::uint64_t{0} << 43 | std::uint64_t{0xfff} << 26)) == 0;
    }
    bool same_block(Record other) const { return (bits_ ^ other.bits_) >> 48 == 0; }
    // Of one block: nothing orders the two.
    bool unordered(Record other) const {
        const std::uint64_t difference = bits_ ^ other.bits_;
        if ((difference >> 38 & 0x3ff) == 0 || (difference >> 26 & 0xfff) != 0) return false;
        return (difference >> 43 & 0x1f) != 0 || (difference >> 14 & 0xfff) == 0;
    }
    bool covers(Record other) const { // is at least as strict, on the same bytes
        return (other.bits_ & ~bits_ & 0xf) == 0 && (bits_ & 0x10) <= (other.bits_ & 0x10);
    }
    bool meets(Record other) const { // the same bytes, and one of them is not atomic
        return (bits_ & other.bits_ & 0xf) != 0 && (bits_ & other.bits_ & 0x10) == 0;
    }

private:
    explicit Record(std::uint64_t bits) : bits_(bits) {}
    std::uint64_t bits_ = 0;
};

class Shadow {
public:
    static constexpr std::uintptr_t page_bytes = 1024; // of the memory that one page stands for
    struct Cell {
        std::array<Record, 2> writes, reads; // the last, and one before that says something else
    };
    struct Page {
        std::array<Cell, page_bytes / 4> cells;
    };
    struct Race {
        Record earlier, later;
        bool earlier_writes = false, later_writes = false;
        bool found = false;
    };

    void forget(); // all accesses so far
    void begin_block() { acquired_.clear(); }
    Page& page(std::uintptr_t address);
    // Bytes [address, address + bytes) lie in the page.
    Race note(Page& page, std::uintptr_t address, std::uintptr_t bytes, bool writes, Record record, bool shared) const;

    // A fence and then an atomic operation hand what the block has written to whoever next does an atomic operation
    // there.
    void fence(std::uint32_t block) { fenced_ = block; }
    void atomic(const void* memory, std::uint32_t block);

private:
    bool races(Record earlier, Record later, bool shared) const {
        if (!earlier.meets(later)) return false;
        if (earlier.same_block(later)) return earlier.unordered(later);
        return !shared && !acquired_.contains(earlier.block());
    }

    std::unordered_map<std::uintptr_t, std::unique_ptr<Page>> pages_;
    std::vector<std::unique_ptr<Page>> spare_;
    std::int64_t fenced_ = -1;                                                    // the block that did, -1: none
    std::unordered_map<const void*, std::unordered_set<std::uint32_t>> released_; // by atomic operations on it
    std::unordered_set<std::uint32_t> acquired_;                                  // blocks whose writes this one sees
};

} // namespace tessera::emulation
