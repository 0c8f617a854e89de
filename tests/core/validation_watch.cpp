// SPDX-License-Identifier: Apache-2.0
// What losses make of a plateau's numbers: when the rate falls and when training ends.
#include "core/run/validation_watch.hpp"

#include <array>
#include <cmath>
#include <gtest/gtest.h>

using namespace tessera;

namespace {

struct Seen {
    std::vector<double> factors;
    std::vector<bool> stops;
};

Seen see(const PlateauSettings& settings, const std::vector<double>& losses) {
    std::array<float, Plateau::numbers> state{};
    EXPECT_EQ(Plateau::rate_factor(state.data()), 1);
    EXPECT_FALSE(Plateau::stops(settings, state.data()));
    Seen seen;
    for (const double loss : losses) {
        Plateau::see(settings, loss, state.data());
        seen.factors.push_back(Plateau::rate_factor(state.data()));
        seen.stops.push_back(Plateau::stops(settings, state.data()));
    }
    return seen;
}

} // namespace

TEST(Plateau, TheRateFallsAfterPatienceAndNoFurtherThanTheLowest) {
    const PlateauSettings settings{.rate_falls = true, .factor = 0.5, .threshold = 0.1, .lowest = 0.25, .patience = 1};
    //                                         best        not 10 % lower       2nd: falls  lower again
    EXPECT_EQ(see(settings, {4, 3.8, 3.7, 3, 2.9, 2.8, 2.75, 2.75, 2.75, 2.75}).factors,
              (std::vector<double>{1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25}));
}

TEST(Plateau, TrainingEndsWhereNoLossIsLower) {
    const PlateauSettings settings{.stop_after = 2, .least = 0.5};
    EXPECT_EQ(see(settings, {4, 3.6, 3.4, 3.2, 3.1}).stops, (std::vector<bool>{false, false, false, false, true}));
    EXPECT_EQ(see({.stop_after = 2}, {NAN, 4, NAN, INFINITY}).stops, (std::vector<bool>{false, false, false, true}));
    EXPECT_EQ(see({.stop_after = 2}, {-1, -2, -1.5, -2.5}).stops, (std::vector<bool>{false, false, false, false}));
    EXPECT_EQ(see({}, {1, 1, 1, 1}).stops, (std::vector<bool>(4, false)));
}
