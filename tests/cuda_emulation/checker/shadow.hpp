// SPDX-License-Identifier: Apache-2.0
// Who touched which bytes in the running launch: for every two bytes the last write and two last reads, with the
// barriers that came before them. One access is compared with these; two without a barrier between are a race.
#pragma once

#include "tests/cuda_emulation/device/execution.hpp"

#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace tessera::emulation {

struct Record { // of one access; zeros: none
    std::uint32_t block = 0;
    std::uint32_t code = 0; // of the instruction, from the start of the program
    std::uint64_t valid : 1 = 0;
    std::uint64_t atomic : 1 = 0;
    std::uint64_t mask : 2 = 0;  // of the two bytes
    std::uint64_t bytes : 5 = 0; // of the whole access
    std::uint64_t thread : 10 = 0;
    std::uint64_t epoch : 22 = 0, warp_epoch : 23 = 0; // barriers of the block, of the warp
};
static_assert(sizeof(Record) == 16);

class Shadow {
public:
    struct Race {
        Record earlier, later;
        bool earlier_writes = false, later_writes = false;
        bool found = false;
    };

    void begin_launch();
    void begin_block() { acquired_.clear(); }
    Race note(const void* memory, std::size_t bytes, Access access, Record record, bool shared);

    // A fence and then an atomic operation hand what the block has written to whoever next does an atomic operation
    // there.
    void fence(std::uint32_t block) { fenced_ = block; }
    void atomic(const void* memory, std::uint32_t block);

private:
    struct Cell {
        Record write, read, other_read;
    };
    static constexpr std::size_t page_bytes = 1024;
    struct Page {
        Cell cells[page_bytes / 2];
    };
    struct Recent {
        std::uintptr_t number = 0;
        Page* page = nullptr;
    };

    Cell& cell(std::uintptr_t address);
    bool conflict(const Record& earlier, const Record& later, bool shared) const;
    static void remember_read(Cell& cell, const Record& record);

    std::unordered_map<std::uintptr_t, std::unique_ptr<Page>> pages_;
    std::vector<std::unique_ptr<Page>> spare_;
    Recent recent_[64];
    std::int64_t fenced_ = -1;                                                    // the block that did, -1: none
    std::unordered_map<const void*, std::unordered_set<std::uint32_t>> released_; // by atomic operations on it
    std::unordered_set<std::uint32_t> acquired_;                                  // blocks whose writes this one sees
};

} // namespace tessera::emulation
