// SPDX-License-Identifier: Apache-2.0
// The environment variables TESSERA_EMULATION_*, read once.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tessera::emulation {

enum class Order { forward, reverse, random };           // of blocks, and of the threads of a block
enum class Schedule { eager, lazy, shuffled, threaded }; // of what streams hold

struct Settings {
    Order order = Order::forward;              // ORDER    forward | reverse | a number: random with this seed
    std::uint64_t order_seed = 0;              //
    Schedule schedule = Schedule::eager;       // STREAMS  eager | lazy | threads | a number: shuffled with this seed
    std::uint64_t schedule_seed = 0;           //
    bool protect = false;                      // PROTECT  1: host code that touches device memory crashes
    std::size_t memory = std::size_t{4} << 30; // MEMORY   bytes of each device
    int devices = 8;                           // DEVICES  how many there are
    int capability = 90;                       // CAPABILITY  compute capability, as the driver says: 80 refuses fp8
    int fill = 0xff;                           // FILL     the byte in fresh memory (255: not a number, -1)
};

// Throws std::runtime_error at a value that it does not know.
const Settings& settings();

// Takes so long where SLOW is this (cudnn, or a kind of product: whole, halves). Read at each call.
void slow_down(const char* what, int milliseconds);

} // namespace tessera::emulation
