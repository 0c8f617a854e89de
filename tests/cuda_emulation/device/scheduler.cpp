// SPDX-License-Identifier: Apache-2.0
// Runs the blocks of a grid, each as fibers, in the order that the settings ask for.
#include "tests/cuda_emulation/device/scheduler.hpp"

#include <cstdarg>
#include <cstdio>
#include <numeric>

namespace tessera::emulation {

constinit thread_local Thread* current_thread = nullptr;
constinit thread_local Block current_block{};
constinit thread_local Scheduler* scheduler = nullptr;
constinit Watch watch{};

namespace {

thread_local std::unique_ptr<Scheduler> owner;

// The life of a fiber: one thread of a block after the other.
void fiber_main() {
    fiber_entered();
    for (;;) {
        Thread& thread = *current_thread;
        Fiber* const self = thread.fiber;
        scheduler->kernel->call();
        thread.done = true;
        thread.fiber = nullptr;
        ++scheduler->done_count;
        scheduler->leave(thread);
        Thread* const next = scheduler->take_ready();
        current_thread = next;
        if (next != nullptr && next->fiber == nullptr) { // it has not begun: this stack is warm
            next->fiber = self;
            continue;
        }
        scheduler->idle.push_back(self);
        switch_fiber(*self, next != nullptr ? *next->fiber : scheduler->host);
    }
}

std::uint64_t count_of(const dim3& size) { return std::uint64_t{size.x} * size.y * size.z; }

uint3 place_of(std::uint64_t number, const dim3& size) {
    return {static_cast<unsigned>(number % size.x), static_cast<unsigned>(number / size.x % size.y),
            static_cast<unsigned>(number / size.x / size.y)};
}

} // namespace

Scheduler::Scheduler() : order(settings().order) {
    random_state = (settings().order_seed * 2 + 1) * 0x9E3779B97F4A7C15ull | 1;
}

std::uint32_t Scheduler::random(std::uint32_t below) { // xorshift64*
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return static_cast<std::uint32_t>((random_state * 0x2545F4914F6CDD1Dull >> 32) * below >> 32);
}

void Scheduler::begin(Thread& thread) {
    if (idle.empty()) {
        fibers.push_back(std::make_unique<Fiber>(fiber_main, fibers.size()));
        idle.push_back(fibers.back().get());
    }
    thread.fiber = idle.back();
    idle.pop_back();
}

void Scheduler::begin_launch(const Shape& shape, const Kernel& what) {
    kernel = &what;
    thread_count = static_cast<std::uint32_t>(count_of(shape.block));
    warp_count = (thread_count + 31) / 32;
    shared.begin_launch(shape.shared_bytes);
    for (std::uint32_t i = 0; i < thread_count; ++i) {
        threads[i] = Thread();
        threads[i].index = place_of(i, shape.block);
        threads[i].number = static_cast<std::uint16_t>(i);
        threads[i].lane = static_cast<std::uint8_t>(i % 32);
        threads[i].warp = static_cast<std::uint8_t>(i / 32);
    }
    ++launches;
}

void Scheduler::run_block(std::uint64_t number) {
    current_block.number = number;
    current_block.index = place_of(number, current_block.grid);
    current_block.alive = thread_count;
    current_block.arrived = current_block.epoch = 0;
    current_block.votes[0] = current_block.votes[1] = 0;
    shared.begin_block();
    done_count = ready_warps = current_warp = 0;
    for (std::uint32_t i = 0; i < warp_count; ++i) {
        Warp& warp = warps[i];
        warp.alive = thread_count - i * 32 >= 32 ? all_lanes : (1u << (thread_count - i * 32)) - 1;
        warp.ready = warp.at_barrier = warp.epoch = 0;
        warp.full.mask = all_lanes;
        warp.full.arrived = warp.full.phase = warp.fragments.done = 0;
        warp.partial.clear();
        make_ready(i, warp.alive);
    }
    for (std::uint32_t i = 0; i < thread_count; ++i) {
        threads[i].done = false;
        threads[i].waits_in = nullptr;
        threads[i].fiber = nullptr;
    }
    if (copies_used)
        for (Copies& of_thread : copies)
            of_thread = {};
    copies_used = false;

    Thread* const first = take_ready();
    current_thread = first;
    switch_fiber(host, fiber_of(*first));
    current_thread = nullptr;
    if (error.empty() && done_count != thread_count) error = deadlock();
    if (!error.empty()) throw Error(std::exchange(error, {}));
}

void Scheduler::end_launch() {
    shared.end_launch();
    if (done_count == thread_count) return;
    fibers.clear(); // with whatever the suspended threads hold
    idle.clear();
}

void Scheduler::leave(Thread& thread) {
    Warp& warp = warps[thread.warp];
    warp.alive &= ~(1u << thread.lane);
    --current_block.alive;
    if (current_block.alive > 0 && current_block.arrived == current_block.alive) release_barrier();
    complete_if_all_came(thread.warp, warp.full);
    for (const auto& rendezvous : warp.partial)
        complete_if_all_came(thread.warp, *rendezvous);
}

void Scheduler::give_up() {
    Fiber* const self = current_thread->fiber;
    current_thread = nullptr;
    switch_fiber(*self, host);
    __builtin_unreachable();
}

void Scheduler::end_in_deadlock() {
    error = deadlock();
    give_up();
}

std::string Scheduler::deadlock() const {
    const auto state = [this](std::uint32_t i) -> std::string {
        if (threads[i].done) return "returned";
        if (threads[i].waits_in == nullptr) return "running";
        return std::string(threads[i].waits_in) + " at " + threads[i].site.file_name() + ":" +
               std::to_string(threads[i].site.line());
    };
    std::string result = "deadlock in block " + std::to_string(current_block.number) + ":";
    for (std::uint32_t first = 0; first < thread_count;) {
        std::uint32_t last = first;
        while (last + 1 < thread_count && state(last + 1) == state(first))
            ++last;
        if (result.size() < 1500) // of a block where every other thread waits elsewhere, the beginning will do
            result += "\n  threads " + std::to_string(first) + ".." + std::to_string(last) + ": " + state(first);
        first = last + 1;
    }
    return result;
}

void fail(const char* format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (current_thread == nullptr) throw Error(text);
    scheduler->error = "block " + std::to_string(current_block.number) + " thread " +
                       std::to_string(current_thread->number) + ": " + text;
    scheduler->give_up();
}

void run_grid(const Shape& shape, std::uint32_t shared_limit, const Kernel& kernel) {
    if (!owner) {
        owner = std::make_unique<Scheduler>();
        scheduler = owner.get();
    }
    if (current_thread != nullptr) throw Error("a kernel launched from a kernel");
    current_block.dimensions = shape.block;
    current_block.grid = shape.grid;
    current_block.dynamic_shared = scheduler->shared.dynamic();
    current_block.shared_limit = shared_limit;
    scheduler->begin_launch(shape, kernel);
    current_block.launch = scheduler->launches;

    const std::uint64_t blocks = count_of(shape.grid);
    std::uint64_t first = 0, step = 1;
    if (scheduler->order == Order::reverse) first = step = blocks - 1;
    if (scheduler->order == Order::random) {
        first = scheduler->random(static_cast<std::uint32_t>(blocks));
        do {
            step = 1 + scheduler->random(static_cast<std::uint32_t>(blocks));
        } while (std::gcd(step, blocks) != 1);
    }
    try {
        for (std::uint64_t i = 0; i < blocks; ++i)
            scheduler->run_block((first + i * step) % blocks);
    } catch (...) {
        scheduler->end_launch();
        throw;
    }
    scheduler->end_launch();
}

} // namespace tessera::emulation
