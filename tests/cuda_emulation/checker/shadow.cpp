// SPDX-License-Identifier: Apache-2.0
// Compares an access with the earlier ones on the same bytes.
#include "tests/cuda_emulation/checker/shadow.hpp"

namespace tessera::emulation {

void Shadow::begin_launch() {
    for (auto& [number, page] : pages_)
        spare_.push_back(std::move(page));
    pages_.clear();
    for (Recent& recent : recent_)
        recent = {};
    released_.clear();
    fenced_ = -1;
}

Shadow::Cell& Shadow::cell(std::uintptr_t address) {
    const std::uintptr_t number = address / page_bytes;
    Recent& recent = recent_[number % std::size(recent_)];
    if (recent.number != number || recent.page == nullptr) {
        std::unique_ptr<Page>& page = pages_[number];
        if (!page && !spare_.empty()) {
            page = std::move(spare_.back());
            spare_.pop_back();
            *page = Page();
        } else if (!page) {
            page = std::make_unique<Page>();
        }
        recent = {number, page.get()};
    }
    return recent.page->cells[address % page_bytes / 2];
}

inline bool Shadow::conflict(const Record& earlier, const Record& later, bool shared) const {
    if (!earlier.valid || !(earlier.mask & later.mask) || (earlier.atomic && later.atomic)) return false;
    if (earlier.block != later.block) return !shared && !acquired_.contains(earlier.block);
    if (earlier.thread == later.thread || earlier.epoch != later.epoch) return false;
    return earlier.thread / 32 != later.thread / 32 || earlier.warp_epoch == later.warp_epoch;
}

// Two readers are kept, of different warps if there are such, so that a write by either meets the other.
inline void Shadow::remember_read(Cell& cell, const Record& record) {
    Record& last = cell.read;
    const bool same_warp =
        last.block == record.block && last.epoch == record.epoch && last.thread / 32 == record.thread / 32;
    if (last.valid && same_warp && last.thread == record.thread && last.warp_epoch == record.warp_epoch) {
        last.mask = last.mask | record.mask;
        return;
    }
    if (last.valid && (!cell.other_read.valid || !same_warp)) cell.other_read = last;
    last = record;
}

Shadow::Race Shadow::note(const void* memory, std::size_t bytes, Access access, Record record, bool shared) {
    const auto first = reinterpret_cast<std::uintptr_t>(memory), end = first + bytes;
    const bool writes = access != Access::read;
    record.valid = 1;
    record.atomic = access == Access::atomic;
    record.bytes = bytes < 31 ? bytes : 31;
    for (std::uintptr_t at = first & ~std::uintptr_t{1}; at < end; at += 2) {
        record.mask = (at >= first ? 1u : 0u) | (at + 1 < end ? 2u : 0u);
        Cell& here = cell(at);
        if (conflict(here.write, record, shared)) return {here.write, record, true, writes, true};
        if (!writes) {
            remember_read(here, record);
            continue;
        }
        if (conflict(here.read, record, shared)) return {here.read, record, false, true, true};
        if (conflict(here.other_read, record, shared)) return {here.other_read, record, false, true, true};
        here.write = record;
    }
    return {};
}

void Shadow::atomic(const void* memory, std::uint32_t block) {
    if (const auto found = released_.find(memory); found != released_.end())
        acquired_.insert(found->second.begin(), found->second.end());
    if (fenced_ == block) released_[memory].insert(block);
}

} // namespace tessera::emulation
