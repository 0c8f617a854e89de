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

using Address = std::uintptr_t;

struct Area {
    enum Kind : std::uint8_t { nothing, private_memory, shared, global } kind = nothing;
    Address start = 0, end = 0;

    bool holds(Address first, std::size_t bytes) const { return first >= start && first + bytes <= end; }
};

struct Recent { // memory that was touched lately
    Address page = 0;
    Area area;
    Shadow::Page* shadow = nullptr; // null: private
};

// Small numbers for the instructions of a launch, and how many bytes each touches.
class Instructions {
public:
    static constexpr std::uint32_t unknown = 511; // when there are more
    struct Instruction {
        std::uint32_t code = 0; // from the start of the program
        std::uint32_t bytes = 0;
    };

    void forget() {
        known_.clear();
        ++launch_;
    }
    std::uint32_t number_of(std::uint32_t code, std::size_t bytes) {
        Place& place = places_[code * 0x9E3779B1u >> 20];
        if (place.code == code && place.launch == launch_) return place.number;
        place = {code, launch_, 0};
        while (place.number < known_.size() && known_[place.number].code != code)
            ++place.number;
        if (place.number == known_.size() && place.number < unknown)
            known_.push_back({code, static_cast<std::uint32_t>(bytes)});
        return place.number;
    }
    Instruction operator[](std::uint32_t number) const {
        return number < known_.size() ? known_[number] : Instruction();
    }

private:
    struct Place {
        std::uint32_t code = 0, launch = 0, number = 0;
    };
    std::vector<Instruction> known_;
    std::array<Place, 4096> places_{}; // by a hash of the code
    std::uint32_t launch_ = 1;
};

struct Checker { // of one thread of the host
    Shadow shadow;
    Instructions instructions;
    std::uint32_t launch = 0;
    std::uint64_t block = 0;
    std::array<std::uint32_t, 32>
        eras{}; // of each warp: its barriers in units of 4096, as many as a Record tells apart
    std::array<Recent, 256> recent{};

    void forget() {
        shadow.forget();
        recent = {};
    }
};
thread_local std::unique_ptr<Checker> owner;
constinit thread_local Checker* checker = nullptr;

std::uint32_t offset_of(const void* code) {
    return static_cast<std::uint32_t>(static_cast<const char*>(code) - &__executable_start);
}

// "reduce.cu:71": what addr2line makes of the instruction before the return address.
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

struct Attempt { // at an access
    Address first = 0;
    std::size_t bytes = 0;
    bool writes = false;
    std::uint32_t code = 0;
};

template <class Object> Area private_area(const Object* object, std::size_t bytes = sizeof(Object)) {
    const auto start = reinterpret_cast<Address>(object);
    return {Area::private_memory, start, start + bytes};
}

[[noreturn]] void fail_beyond(const Attempt& attempt, const Area& area) {
    fail("%s of %zu bytes at byte %td of %zu bytes of %s memory (%s)", word(attempt.writes), attempt.bytes,
         static_cast<std::ptrdiff_t>(attempt.first - area.start), area.end - area.start,
         area.kind == Area::shared ? "shared" : "global", place(attempt.code).c_str());
}

// No kernel may touch this: why?
[[noreturn]] void fail_elsewhere(const Attempt& attempt) {
    const auto* const memory = reinterpret_cast<const char*>(attempt.first);
    const std::string where = place(attempt.code);
    if (scheduler->shared.near(memory))
        fail("%s of %zu bytes outside of the block's shared memory (%s)", word(attempt.writes), attempt.bytes,
             where.c_str());
    for (const auto& fiber : scheduler->fibers)
        if (fiber->holds(memory)) fail("%s of another thread's variable (%s)", word(attempt.writes), where.c_str());
    for (std::ptrdiff_t back = 1; back < 1 << 20; back *= 2)
        if (const Memory before = find_memory(memory - back); before.start != nullptr) {
            const auto start = reinterpret_cast<Address>(before.start);
            fail_beyond(attempt, {Area::global, start, start + before.bytes});
        }
    fail("%s of %zu bytes at %p: no memory of the device (%s)", word(attempt.writes), attempt.bytes, memory,
         where.c_str());
}

Area area_of(const Attempt& attempt) {
    const auto* const memory = reinterpret_cast<const char*>(attempt.first);
    if (const Memory found = find_memory(memory); found.start != nullptr) {
        if (found.device >= 0 && found.device != current_block.device)
            fail("%s of memory of device %d by a kernel on device %d (%s)", word(attempt.writes), found.device,
                 current_block.device, place(attempt.code).c_str());
        const auto start = reinterpret_cast<Address>(found.start);
        return {Area::global, start, start + found.bytes};
    }
    if (const auto [found, bytes] = scheduler->shared.find(memory); found != nullptr) {
        const auto start = reinterpret_cast<Address>(found);
        return {Area::shared, start, start + bytes};
    }
    for (const Area& own : {private_area(scheduler->kernel, scheduler->kernel->bytes()), private_area(&current_block),
                            private_area(&current_thread), private_area(scheduler)})
        if (own.holds(attempt.first, 1)) return own;
    const Area program = private_area(&__executable_start, static_cast<std::size_t>(&_end - &__executable_start));
    if (program.holds(attempt.first, 1) && !attempt.writes) return program; // constants
    fail_elsewhere(attempt);
}

[[noreturn]] void report_race(const Shadow::Race& race, bool shared) {
    const auto describe = [](Record record, bool writes) {
        const auto [code, bytes] = checker->instructions[record.code()];
        return std::string(record.atomic() ? "atomic " : "") + word(writes) + " of " + std::to_string(bytes) +
               " bytes by block " + std::to_string(record.block()) + " thread " + std::to_string(record.thread()) +
               " (" + place(code) + ")";
    };
    fail("race on %s memory: %s and %s, no barrier between", shared ? "shared" : "global",
         describe(race.earlier, race.earlier_writes).c_str(), describe(race.later, race.later_writes).c_str());
}

void begin_launch_or_block() {
    if (checker == nullptr) {
        owner = std::make_unique<Checker>();
        checker = owner.get();
    }
    if (checker->launch != current_block.launch) {
        checker->launch = current_block.launch;
        checker->instructions.forget();
        checker->forget();
    }
    checker->block = current_block.number;
    checker->shadow.begin_block();
    checker->eras = {};
}

inline void begin_if_new() {
    if (checker == nullptr || checker->launch != current_block.launch || checker->block != current_block.number)
        begin_launch_or_block();
}

void note(const Attempt& attempt, Access access) {
    const Warp& warp = scheduler->warps[current_thread->warp];
    if (checker->eras[current_thread->warp] != warp.epoch >> 12) {
        checker->eras[current_thread->warp] = warp.epoch >> 12;
        checker->forget();
    }
    const Record record(current_block.number, current_thread->number, current_block.epoch, warp.epoch,
                        checker->instructions.number_of(attempt.code, attempt.bytes), access == Access::atomic);
    const Address end = attempt.first + attempt.bytes;
    for (Address first = attempt.first; first < end;) {
        const Address page = first / Shadow::page_bytes;
        Recent& recent = checker->recent[page % checker->recent.size()];
        if (recent.page != page || !recent.area.holds(first, 1)) {
            recent = {page, area_of({first, end - first, attempt.writes, attempt.code}), nullptr};
            if (recent.area.kind != Area::private_memory) recent.shadow = &checker->shadow.page(first);
        }
        if (recent.shadow == nullptr) return;
        if (end > recent.area.end) fail_beyond(attempt, recent.area);
        const Address stop = std::min(end, (page + 1) * Shadow::page_bytes);
        const bool shared = recent.area.kind == Area::shared;
        const Shadow::Race race =
            checker->shadow.note(*recent.shadow, first, stop - first, attempt.writes, record, shared);
        if (race.found) report_race(race, shared);
        first = stop;
    }
    if (access == Access::atomic) checker->shadow.atomic(reinterpret_cast<const void*>(attempt.first), record.block());
}

void check_fence() {
    if (current_thread == nullptr) return;
    begin_if_new();
    checker->shadow.fence(static_cast<std::uint16_t>(current_block.number));
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
    note({reinterpret_cast<Address>(memory), bytes, access != Access::read, offset_of(instruction)}, access);
}

void report_alignment(const void* memory, std::size_t bytes, const void* instruction) {
    if (current_thread == nullptr) return;
    fail("an access of %zu bytes at %p, which is not aligned so (%s)", bytes, memory,
         place(offset_of(instruction)).c_str());
}

} // namespace tessera::emulation
