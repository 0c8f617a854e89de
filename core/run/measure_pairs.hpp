// SPDX-License-Identifier: Apache-2.0
// How fast ranks are in pairs: which link is slow, where an all-reduce of all only says that one is.
#pragma once

#include "parallel/communication/world.hpp"

#include "kernels/stream.hpp"

#include <string>
#include <utility>
#include <vector>

namespace tessera {

// An all-reduce of two ranks.
struct PairRate {
    int one = 0, other = 0;
    double bytes_per_second = 0; // of the buffer
    double seconds = 0;          // of one of a few bytes
};

// Round `round` of a tournament (the circle method): every rank once, but for one of an odd number. In so many rounds
// every two ranks meet once.
std::vector<std::pair<int, int>> pairs_of_round(int ranks, int round);
int rounds_of(int ranks);

// Up to 16 ranks each two, of more a sample: the pairs of 8 rounds, all pairs of a round at once. Those that this rank
// is the lower of. Called by all ranks together.
std::vector<PairRate> measure_pairs(const World& world, Stream& stream);

} // namespace tessera
