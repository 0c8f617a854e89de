// SPDX-License-Identifier: Apache-2.0
// Barriers of a block and collectives of a warp: who waits for whom, and what it is when they never meet.
#include "tests/cuda_emulation/device/scheduler.hpp"

namespace tessera::emulation {
namespace {

bool same_place(const Site& a, const Site& b) { return a.line() == b.line() && a.file_name() == b.file_name(); }

Rendezvous& rendezvous_of(Warp& warp, std::uint32_t mask) {
    if (mask == all_lanes) return warp.full;
    for (const auto& partial : warp.partial)
        if (partial->mask == mask) return *partial;
    warp.partial.push_back(std::make_unique<Rendezvous>());
    warp.partial.back()->mask = mask;
    return *warp.partial.back();
}

void complete(Rendezvous& rendezvous) {
    rendezvous.took_part[rendezvous.phase & 1] = rendezvous.arrived;
    rendezvous.arrived = 0;
    ++rendezvous.phase;
}

} // namespace

void Scheduler::complete_if_all_came(std::uint32_t warp, Rendezvous& rendezvous) {
    if (!rendezvous.arrived || rendezvous.arrived != (rendezvous.mask & warps[warp].alive)) return;
    make_ready(warp, rendezvous.arrived);
    complete(rendezvous);
}

void Scheduler::release_barrier() {
    for (std::uint32_t i = 0; i < warp_count; ++i) {
        make_ready(i, warps[i].at_barrier);
        warps[i].at_barrier = 0;
        ++warps[i].epoch;
    }
    current_block.arrived = 0;
    ++current_block.epoch;
    current_block.votes[current_block.epoch & 1] = 0;
}

Gathered collective(std::uint32_t mask, std::uint64_t value, const char* name, Site site) {
    Thread& self = *current_thread;
    Warp& warp = scheduler->warps[self.warp];
    const std::uint32_t own = 1u << self.lane;
    if (!(mask & own))
        fail("%s at %s:%u: the calling lane is not in the mask %08x", name, site.file_name(), site.line(), mask);
    Rendezvous& rendezvous = rendezvous_of(warp, mask);
    const std::uint32_t phase = rendezvous.phase & 1;
    if (rendezvous.arrived) {
        const auto lane = static_cast<std::uint32_t>(__builtin_ctz(rendezvous.arrived));
        const Thread& other = scheduler->threads[self.warp * 32u + lane];
        if (!same_place(other.site, site))
            fail("lanes %d and %d meet in %s at %s:%u and %s at %s:%u", other.lane, self.lane, other.waits_in,
                 other.site.file_name(), other.site.line(), name, site.file_name(), site.line());
    }
    rendezvous.value[phase][self.lane] = value;
    rendezvous.arrived |= own;
    if (rendezvous.arrived == (mask & warp.alive)) {
        scheduler->make_ready(self.warp, rendezvous.arrived & ~own);
        complete(rendezvous);
        if (scheduler->order == Order::random) scheduler->step_aside(name, site); // the last need not go first
    } else {
        scheduler->wait_here(name, site);
    }
    return {rendezvous.value[phase], rendezvous.took_part[phase]};
}

void sync_warp(std::uint32_t mask, Site site) {
    Warp& warp = scheduler->warps[current_thread->warp];
    const std::uint32_t before = warp.epoch;
    collective(mask, 0, "__syncwarp", site);
    if (warp.epoch == before) ++warp.epoch;
}

int sync_block(int vote, const char* name, Site site) {
    Thread& self = *current_thread;
    const std::uint32_t parity = current_block.epoch & 1;
    if (current_block.arrived == 0)
        scheduler->barrier_site = site;
    else if (!same_place(scheduler->barrier_site, site))
        fail("%s at %s:%u, while others of the block are in a barrier at %s:%u", name, site.file_name(), site.line(),
             scheduler->barrier_site.file_name(), scheduler->barrier_site.line());
    current_block.votes[parity] += vote;
    if (++current_block.arrived == current_block.alive) {
        scheduler->release_barrier();
        if (scheduler->order == Order::random) scheduler->step_aside(name, site);
    } else {
        scheduler->warps[self.warp].at_barrier |= 1u << self.lane;
        scheduler->wait_here(name, site);
    }
    return current_block.votes[parity];
}

} // namespace tessera::emulation
