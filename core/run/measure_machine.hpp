// SPDX-License-Identifier: Apache-2.0
// Measures the constants of core/cost on the machine at hand, with the program's own kernels and communicators.
#pragma once

#include "core/cost/machine.hpp"
#include "parallel/communication/groups.hpp"

#include <string>
#include <vector>

namespace tessera {

// One line of a table.
struct MeasuredRate {
    std::string what;
    double flops = 0; // per second; 0: not a rate of work
    double bytes = 0; // per second
    double alpha = 0; // seconds
};

// What is measured with. All of it outlives a call.
struct Bench {
    Groups& groups;
    Stream& stream;       // of kernels, and of the axes of `groups`
    Stream& host;         // of groups.all()
    double seconds = 0.1; // that each measurement repeats its work
};

// What all ranks do at once, each on its own: products, attention, memory. Fills the machine's constants of a rank; the
// slowest rank counts. Called by all ranks together, as the next.
std::vector<MeasuredRate> measure_rank(const Bench& bench, Machine& machine);

// What this rank alone reaches while all work at once: its own clock, not the slowest rank's. `slowness` times the work
// is done and counted once, so that a slow rank can be planted. Called by all ranks together.
struct OwnRates {
    double flops = 0;            // per second, of f32 products
    double memory_bandwidth = 0; // bytes per second
};
OwnRates measure_own(const Bench& bench, int slowness = 1);

// The links between the ranks of one axis: from the times of a short and a long message, solved for alpha and beta.
// `name` goes before the names of the collectives. An axis of one rank has none.
std::vector<MeasuredRate> measure_links(const std::string& name, int axis, const Bench& bench, Links& links);

} // namespace tessera
