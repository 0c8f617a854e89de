// SPDX-License-Identifier: Apache-2.0
// Who is slow: the outliers of ranks, the rounds of pairs, and clocks that are apart.
#include "core/run/outliers.hpp"

#include "core/run/clock_offset.hpp"
#include "core/run/measure_pairs.hpp"
#include "parallel/communication/local.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <gmock/gmock.h>
#include <rapidcheck.h>
#include <set>

namespace tessera {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::size_t> slow(std::vector<double> rates, double factor = 1.4) {
    return outliers(rates, Worse::low, factor);
}

TEST(Outliers, MedianOfOddEvenAndNone) {
    EXPECT_EQ(median({3, 1, 2}), 2);
    EXPECT_EQ(median({4, 1, 2, 3}), 2.5);
    EXPECT_TRUE(std::isnan(median({})));
}

TEST(Outliers, OneSlowAmongMany) {
    EXPECT_THAT(slow({10, 10.1, 9.9, 6, 10}), ElementsAre(3));
    EXPECT_THAT(slow({10, 10.1, 9.9, 8, 10}), IsEmpty());       // within the factor
    EXPECT_THAT(slow({10, 6, 15, 8, 12, 7, 11}), IsEmpty());    // all are so
    EXPECT_THAT(slow({16.5, 19.2, 23.9, 4.5}), ElementsAre(3)); // few that differ, and one by far
    EXPECT_THAT(slow({10, 10, 10, 25}), IsEmpty());             // a fast one is not slow
    EXPECT_THAT(outliers(std::vector<double>{1, 1, 1, 2}, Worse::high, 1.4), ElementsAre(3)); // times
    EXPECT_THAT(slow({10, 10, 10, 0}), ElementsAre(3));
}

TEST(Outliers, FewerThanThree) {
    EXPECT_THAT(slow({}), IsEmpty());
    EXPECT_THAT(slow({1}), IsEmpty());
    EXPECT_THAT(slow({10, 6}), IsEmpty());
    EXPECT_THAT(slow({4, 10}), ElementsAre(0));
}

TEST(Outliers, DoNotDependOnTheUnit) {
    const bool right = rc::check([] {
        const auto values = *rc::gen::container<std::vector<int>>(rc::gen::inRange(1, 1000));
        std::vector<double> once, thousandfold;
        for (const int value : values) {
            once.push_back(value);
            thousandfold.push_back(1024.0 * value);
        }
        RC_ASSERT(slow(once) == slow(thousandfold));
    });
    EXPECT_TRUE(right);
}

TEST(MeasurePairs, EveryTwoMeetOnce) {
    for (const int ranks : {1, 2, 3, 4, 5, 8, 13}) {
        std::multiset<std::pair<int, int>> met;
        for (int round = 0; round < rounds_of(ranks); ++round) {
            std::set<int> busy;
            for (const auto& [one, other] : pairs_of_round(ranks, round)) {
                EXPECT_TRUE(0 <= one && one < other && other < ranks);
                EXPECT_TRUE(busy.insert(one).second && busy.insert(other).second) << ranks << " ranks, round " << round;
                met.emplace(one, other);
            }
        }
        EXPECT_EQ(std::ssize(met), ranks * (ranks - 1) / 2);
        EXPECT_EQ((std::set<std::pair<int, int>>(met.begin(), met.end()).size()), met.size());
    }
}

TEST(ClockOffset, FindsClocksThatAreApart) {
    run_as_threads(3, [](Communicator& ranks) {
        Stream host = CpuStream(1);
        const double ahead = 100.0 * ranks.rank();
        const ClockOffset found = clock_offset(ranks, host, [&] {
            return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count() + ahead;
        });
        EXPECT_LE(found.error, 5);
        EXPECT_NEAR(found.seconds, ahead, found.error + 1e-6);
    });
}

} // namespace
} // namespace tessera
