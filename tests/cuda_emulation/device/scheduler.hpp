// SPDX-License-Identifier: Apache-2.0
// Which thread of the running block goes on next, and where the others wait. One scheduler for each thread of the host.
#pragma once

#include "tests/cuda_emulation/device/fiber.hpp"
#include "tests/cuda_emulation/device/warp.hpp"
#include "tests/cuda_emulation/hopper.hpp"
#include "tests/cuda_emulation/settings.hpp"

#include <memory>
#include <string>
#include <vector>

namespace tessera::emulation {

constexpr std::uint32_t all_lanes = ~0u;
struct Rendezvous { // of the lanes that one mask names
    std::uint32_t mask = 0;
    std::uint32_t arrived = 0;
    std::uint32_t phase = 0; // counts completions; a lane reads phase p while others may fill p + 1
    std::uint32_t took_part[2] = {};
    std::uint64_t value[2][32];
};

struct Fragments { // of a tensor-core instruction: what the lanes hand in, what they get
    std::uint32_t a[32][4], b[32][2];
    float product[16][8];
    alignas(16) std::uint16_t rows[32][8];
    std::uint32_t done = 0; // the phase of the full rendezvous that these results belong to
};

struct Warp {
    std::uint32_t ready = 0, alive = 0, at_barrier = 0; // sets of lanes
    std::uint32_t epoch = 0;                            // counts barriers
    Rendezvous full;
    std::vector<std::unique_ptr<Rendezvous>> partial;
    Fragments fragments;
};

struct Copies { // cp.async of one thread
    struct Copy {
        void* to;
        const void* from; // null: zeros
    };
    std::vector<Copy> copies;        // not yet done
    std::vector<std::size_t> groups; // how many copies lie in each group; the copies behind them are in none
};

class SharedMemory { // of the running block
public:
    SharedMemory();
    ~SharedMemory();
    SharedMemory(const SharedMemory&) = delete;
    SharedMemory& operator=(const SharedMemory&) = delete;

    void begin_launch(std::size_t dynamic_bytes);
    void begin_block(); // fills everything with garbage
    void end_launch();
    void* array(const void* key, std::size_t bytes, std::size_t alignment);
    char* dynamic() const { return dynamic_; }
    bool near(const void* address) const; // in it, or beyond the end of one of its arrays
    bool holds(const void* address, std::size_t bytes) const;
    std::pair<const char*, std::size_t> find(const void* address) const; // the array that it lies in

private:
    struct Array {
        const void* key;
        char* start;
        std::size_t bytes;
    };
    std::vector<Array> arrays_;
    char* static_ = nullptr;
    char* dynamic_ = nullptr;
    std::size_t dynamic_bytes_ = 0, static_end_ = 0, static_bytes_ = 0;
};

struct Scheduler {
    Scheduler();

    void begin_launch(const Shape& shape, const Kernel& kernel);
    void run_block(std::uint64_t number);
    void end_launch(); // also after an error

    std::uint32_t random(std::uint32_t below);
    void make_ready(std::uint32_t warp, std::uint32_t lanes) {
        warps[warp].ready |= lanes;
        if (warps[warp].ready) ready_warps |= 1u << warp;
    }
    Thread* take_ready(); // null: nobody can go on
    Fiber& fiber_of(Thread& thread);
    void begin(Thread& thread); // gives it a stack
    void leave(Thread& thread); // has returned: whom does that release?
    void release_barrier();
    void complete_if_all_came(std::uint32_t warp, Rendezvous& rendezvous);
    void wait_here(const char* name, Site site);
    void step_aside(const char* name, Site site); // lets others go first
    [[noreturn]] void give_up();                  // back to run_block, which throws `error`
    std::string who_waits() const;

    Order order;
    Thread threads[1024];
    Copies copies[1024];
    bool copies_used = false;
    Warp warps[32];
    std::uint32_t warp_count = 0, thread_count = 0, done_count = 0, launches = 0;
    std::uint32_t ready_warps = 0, current_warp = 0;
    std::uint64_t random_state = 1;
    SharedMemory shared;
    Fiber host;
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<Fiber*> idle;
    const Kernel* kernel = nullptr;
    std::string error;
    Site barrier_site; // of those that wait at the block's barrier
};

extern constinit thread_local Scheduler* scheduler;

// The same code runs with and without a choice of order, so that the common order costs a few instructions.
[[gnu::always_inline]] inline Thread* Scheduler::take_ready() {
    if (!ready_warps) return nullptr;
    std::uint32_t warp = current_warp, lane = 0;
    if (order == Order::forward) {
        if (!(ready_warps >> warp & 1)) warp = static_cast<std::uint32_t>(__builtin_ctz(ready_warps));
        lane = static_cast<std::uint32_t>(__builtin_ctz(warps[warp].ready));
    } else if (order == Order::reverse) {
        if (!(ready_warps >> warp & 1)) warp = 31 - static_cast<std::uint32_t>(__builtin_clz(ready_warps));
        lane = 31 - static_cast<std::uint32_t>(__builtin_clz(warps[warp].ready));
    } else {
        const auto any_of = [this](std::uint32_t set) {
            for (std::uint32_t skip = random(static_cast<std::uint32_t>(__builtin_popcount(set))); skip > 0; --skip)
                set &= set - 1;
            return static_cast<std::uint32_t>(__builtin_ctz(set));
        };
        warp = any_of(ready_warps);
        lane = any_of(warps[warp].ready);
    }
    current_warp = warp;
    if (!(warps[warp].ready &= ~(1u << lane))) ready_warps &= ~(1u << warp);
    return &threads[warp * 32 + lane];
}

[[gnu::always_inline]] inline void Scheduler::wait_here(const char* name, Site site) {
    Thread* self = current_thread;
    self->waits_in = name, self->site = site;
    Thread* next = take_ready();
    if (next == nullptr) {
        error = "deadlock in block " + std::to_string(current_block.number) + ":" + who_waits();
        give_up();
    }
    current_thread = next;
    if (next != self) switch_fiber(*self->fiber, fiber_of(*next));
    self->waits_in = nullptr;
}

[[gnu::always_inline]] inline Fiber& Scheduler::fiber_of(Thread& thread) {
    if (thread.fiber == nullptr) begin(thread);
    return *thread.fiber;
}

inline void Scheduler::step_aside(const char* name, Site site) {
    make_ready(current_thread->warp, 1u << current_thread->lane);
    wait_here(name, site);
}

} // namespace tessera::emulation
