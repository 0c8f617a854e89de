// SPDX-License-Identifier: Apache-2.0
// Compares an access with the earlier ones on the same bytes.
#include "tests/cuda_emulation/checker/shadow.hpp"

namespace tessera::emulation {
namespace {

// Two readers are kept, of different warps if there are such, so that a write by either meets the other.
void remember_read(Shadow::Cell& cell, Record record) {
    auto& [last, other] = cell.reads;
    if (last.same_moment(record)) {
        last = last.on(record.bytes());
        return;
    }
    if (last.bytes() != 0 && (other.bytes() == 0 || !last.same_warp(record))) other = last;
    last = record;
}

// The earlier write still counts where the new one leaves bytes of it alone.
void remember_write(Shadow::Cell& cell, Record record) {
    auto& [last, other] = cell.writes;
    if (last.same_moment(record) && !last.atomic() && !record.atomic()) {
        last = last.on(record.bytes());
        return;
    }
    if ((last.bytes() & ~record.bytes()) != 0) other = last;
    last = record;
}

} // namespace

void Shadow::forget() {
    for (auto& [number, page] : pages_)
        spare_.push_back(std::move(page));
    pages_.clear();
    released_.clear();
    fenced_ = -1;
}

Shadow::Page& Shadow::page(std::uintptr_t address) {
    std::unique_ptr<Page>& page = pages_[address / page_bytes];
    if (!page && !spare_.empty()) {
        page = std::move(spare_.back());
        spare_.pop_back();
        *page = Page();
    } else if (!page) {
        page = std::make_unique<Page>();
    }
    return *page;
}

Shadow::Race Shadow::note(Page& page, std::uintptr_t address, std::uintptr_t bytes, bool writes, Record record,
                          bool shared) const {
    const std::uintptr_t end = address + bytes;
    for (std::uintptr_t at = address & ~std::uintptr_t{3}; at < end; at += 4) {
        Cell& cell = page.cells[at % page_bytes / 4];
        std::uint64_t touched = 0xf;
        if (at < address) touched &= 0xfu << (address - at);
        if (end - at < 4) touched &= 0xfu >> (at + 4 - end);
        const Record here = record.on(touched);
        // Once more at the same moment: whoever else came in between was compared with the first time.
        const Record last = writes ? cell.writes[0] : cell.reads[0];
        if (last.same_moment(here) && last.covers(here)) continue;
        for (const Record earlier : cell.writes)
            if (races(earlier, here, shared)) return {earlier, here, true, writes, true};
        if (!writes) {
            remember_read(cell, here);
            continue;
        }
        for (const Record earlier : cell.reads)
            if (races(earlier, here, shared)) return {earlier, here, false, true, true};
        remember_write(cell, here);
    }
    return {};
}

void Shadow::atomic(const void* memory, std::uint32_t block) {
    if (const auto found = released_.find(memory); found != released_.end())
        acquired_.insert(found->second.begin(), found->second.end());
    if (fenced_ == block) released_[memory].insert(block);
}

} // namespace tessera::emulation
