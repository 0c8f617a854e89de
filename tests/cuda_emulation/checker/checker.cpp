// SPDX-License-Identifier: Apache-2.0
// Checks every access of a kernel: is it memory that a kernel may touch, is it aligned, does it race with another?
#include "tests/cuda_emulation/checker/checker.hpp"

#include "tests/cuda_emulation/checker/shadow.hpp"
#include "tests/cuda_emulation/device/scheduler.hpp"
#include "tests/cuda_emulation/runtime/runtime.hpp"

#include <cstdio>
#include <string>
#include <unistd.h>

extern "C" const char __executable_start, _end; // of the program in memory, by the linker

namespace tessera::emulation {
namespace {

struct Area {
    enum Kind { nothing, private_memory, shared, global } kind = nothing;
    const char* start = nullptr;
    std::size_t bytes = 0;

    bool holds(const void* memory, std::size_t size) const {
        return memory >= start && static_cast<const char*>(memory) + size <= start + bytes;
    }
};

struct Checker { // of one thread of the host
    Shadow shadow;
    std::uint32_t launch = 0;
    std::uint64_t block = 0;
    Area recent[64]; // by address
};
thread_local std::unique_ptr<Checker> owner;
constinit thread_local Checker* checker = nullptr;

std::uint32_t offset_of(const void* code) {
    return static_cast<std::uint32_t>(static_cast<const char*>(code) - &__executable_start);
}

// "reduce.cu:71", or what addr2line makes of the instruction before the return address.
std::string place(std::uint32_t code) {
    char command[200], line[500] = "?";
    std::snprintf(command, sizeof command, "addr2line -Cspe /proc/%d/exe 0x%x 2>/dev/null", static_cast<int>(getpid()),
                  code - 1);
    if (std::FILE* pipe = popen(command, "r")) {
        if (std::fgets(line, sizeof line, pipe) == nullptr) line[0] = '?';
        pclose(pipe);
    }
    std::string result = line;
    while (!result.empty() && result.back() == '\n')
        result.pop_back();
    return result;
}

const char* word(bool writes) { return writes ? "write" : "read"; }

Area private_area(const void* memory) {
    const auto area = [](const auto& object) {
        return Area{Area::private_memory, reinterpret_cast<const char*>(&object), sizeof object};
    };
    const Kernel* const kernel = scheduler->kernel;
    for (const Area& own : {Area{Area::private_memory, reinterpret_cast<const char*>(kernel), kernel->bytes()},
                            area(current_block), area(current_thread), area(*scheduler)})
        if (own.holds(memory, 1)) return own;
    return {};
}

[[noreturn]] void fail_beyond(bool writes, std::size_t bytes, const void* memory, const Area& area,
                              std::uint32_t code) {
    fail("%s of %zu bytes at byte %td of %zu bytes of %s memory (%s)", word(writes), bytes,
         static_cast<const char*>(memory) - area.start, area.bytes, area.kind == Area::shared ? "shared" : "global",
         place(code).c_str());
}

// Where the address belongs. Ends the kernel when no kernel may touch it.
Area area_of(const void* memory, std::size_t bytes, bool writes, std::uint32_t code) {
    if (const Area own = private_area(memory); own.kind != Area::nothing) return own;
    if (const Memory found = find_memory(memory); found.start != nullptr) {
        if (found.device >= 0 && found.device != current_block.device)
            fail("%s of memory of device %d by a kernel on device %d (%s)", word(writes), found.device,
                 current_block.device, place(code).c_str());
        return {Area::global, found.start, found.bytes};
    }
    if (const auto [start, size] = scheduler->shared.find(memory); start != nullptr) return {Area::shared, start, size};
    if (scheduler->shared.near(memory))
        fail("%s of %zu bytes outside of the block's shared memory (%s)", word(writes), bytes, place(code).c_str());
    for (const auto& fiber : scheduler->fibers)
        if (fiber->holds(memory)) fail("%s of another thread's variable (%s)", word(writes), place(code).c_str());
    if (memory >= &__executable_start && memory < &_end && !writes) // constants
        return {Area::private_memory, &__executable_start, static_cast<std::size_t>(&_end - &__executable_start)};
    for (std::ptrdiff_t back = 1; back < 1 << 20; back *= 2)
        if (const Memory before = find_memory(static_cast<const char*>(memory) - back); before.start != nullptr)
            fail_beyond(writes, bytes, memory, {Area::global, before.start, before.bytes}, code);
    fail("%s of %zu bytes at %p: no memory of the device (%s)", word(writes), bytes, memory, place(code).c_str());
}

[[noreturn]] void report_race(const Shadow::Race& race, bool shared) {
    const auto describe = [](const Record& record, bool writes) {
        return std::string(record.atomic ? "atomic " : "") + word(writes) + " of " + std::to_string(record.bytes) +
               " bytes by block " + std::to_string(record.block) + " thread " + std::to_string(record.thread) + " (" +
               place(record.code) + ")";
    };
    fail("race on %s memory: %s and %s, no barrier between", shared ? "shared" : "global",
         describe(race.earlier, race.earlier_writes).c_str(), describe(race.later, race.later_writes).c_str());
}

void begin_if_new() {
    if (checker == nullptr) {
        owner = std::make_unique<Checker>();
        checker = owner.get();
    }
    if (checker->launch != current_block.launch) {
        checker->launch = current_block.launch;
        checker->block = ~std::uint64_t{0};
        checker->shadow.begin_launch();
        for (Area& area : checker->recent)
            area = {};
    }
    if (checker->block != current_block.number) {
        checker->block = current_block.number;
        checker->shadow.begin_block();
    }
}

void check_fence() {
    if (current_thread == nullptr) return;
    begin_if_new();
    checker->shadow.fence(static_cast<std::uint32_t>(current_block.number));
}

[[maybe_unused]] const bool installed = [] {
    watch.access = check_access;
    watch.fence = check_fence;
    return true;
}();

} // namespace

void check_access(const void* memory, std::size_t bytes, Access access, const void* instruction) {
    if (current_thread == nullptr || current_thread->fiber->holds(memory)) return;
    begin_if_new();
    const std::uint32_t code = offset_of(instruction);
    const bool writes = access != Access::read;
    Area& area = checker->recent[reinterpret_cast<std::uintptr_t>(memory) / 1024 % std::size(checker->recent)];
    if (!area.holds(memory, bytes)) area = area_of(memory, bytes, writes, code);
    if (area.kind == Area::private_memory) return;
    if (!area.holds(memory, bytes))
        fail("%s of %zu bytes at byte %td of %zu bytes of %s memory (%s)", word(writes), bytes,
             static_cast<const char*>(memory) - area.start, area.bytes, area.kind == Area::shared ? "shared" : "global",
             place(code).c_str());
    Record record;
    record.block = static_cast<std::uint32_t>(current_block.number);
    record.code = code;
    record.thread = current_thread->number;
    record.epoch = current_block.epoch;
    record.warp_epoch = scheduler->warps[current_thread->warp].epoch;
    const bool shared = area.kind == Area::shared;
    if (const Shadow::Race race = checker->shadow.note(memory, bytes, access, record, shared); race.found)
        report_race(race, shared);
    if (access == Access::atomic) checker->shadow.atomic(memory, record.block);
}

void check_alignment(const void* memory, std::size_t bytes, const void* instruction) {
    if (current_thread == nullptr || reinterpret_cast<std::uintptr_t>(memory) % bytes == 0) return;
    fail("an access of %zu bytes at %p, which is not aligned so (%s)", bytes, memory,
         place(offset_of(instruction)).c_str());
}

} // namespace tessera::emulation
