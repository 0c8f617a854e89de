// SPDX-License-Identifier: Apache-2.0
// The order of samples: permutations, phases, and what it must not depend on.
#include "core/data/data_error.hpp"
#include "core/data/sample_order.hpp"
#include "tests/core/data_files.hpp"

#include <algorithm>
#include <map>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>
#include <set>

using namespace tessera;

namespace {

std::vector<std::int64_t> epoch_of(const SampleOrder& order, std::int64_t epoch) {
    std::vector<std::int64_t> samples;
    for (std::int64_t i = 0; i < order.per_epoch(); ++i)
        samples.push_back(order.sample(epoch * order.per_epoch() + i));
    return samples;
}

} // namespace

// Sorted, a shuffled epoch is phase, phase + window, …: each window once, none touching another, all inside.
RC_GTEST_PROP(SampleOrder, AShuffledEpochVisitsEachWindowOnce, ()) {
    const auto samples = *rc::gen::inRange<std::int64_t>(1, 3000);
    const auto window = *rc::gen::inRange<std::int64_t>(1, 80);
    const auto epoch = *rc::gen::inRange<std::int64_t>(0, 50);
    const SampleOrder order({"shuffle", *rc::gen::arbitrary<std::uint64_t>(), samples, window});
    std::vector<std::int64_t> visited = epoch_of(order, epoch);
    std::sort(visited.begin(), visited.end());
    RC_ASSERT(order.per_epoch() == std::max<std::int64_t>(1, samples / window));
    RC_ASSERT(visited.front() >= 0);
    RC_ASSERT(visited.front() < window);
    RC_ASSERT(visited.back() < samples);
    for (std::size_t i = 1; i < visited.size(); ++i)
        RC_ASSERT(visited[i] - visited[i - 1] == window);
}

TEST(SampleOrder, SeparateSamplesAreAPermutationOfAll) {
    for (const std::int64_t samples : {1, 2, 3, 7, 8, 9, 1000, 65536}) {
        const SampleOrder order({"shuffle", 3, samples, 1});
        ASSERT_EQ(order.per_epoch(), samples);
        std::vector<std::int64_t> visited = epoch_of(order, 2);
        std::sort(visited.begin(), visited.end());
        for (std::int64_t i = 0; i < samples; ++i)
            ASSERT_EQ(visited[static_cast<std::size_t>(i)], i);
    }
}

// Each sample once, and so that a reader that holds `together` blocks reads each block once.
RC_GTEST_PROP(SampleOrder, BlocksAreShuffledInGroups, ()) {
    const auto samples = *rc::gen::inRange<std::int64_t>(1, 3000);
    const auto block = *rc::gen::inRange<std::int64_t>(2, 80), together = *rc::gen::inRange<std::int64_t>(1, 9);
    const auto epoch = *rc::gen::inRange<std::int64_t>(0, 50);
    const SampleOrder order({.kind = "shuffle",
                             .seed = *rc::gen::arbitrary<std::uint64_t>(),
                             .samples = samples,
                             .blocks = {block, together}});
    std::vector<std::int64_t> visited = epoch_of(order, epoch);
    RC_ASSERT(order.per_epoch() == samples);
    std::set<std::int64_t> held, read;
    for (const std::int64_t sample : visited) {
        if (held.contains(sample / block)) continue;
        if (static_cast<std::int64_t>(held.size()) == together) held.clear(); // the next group begins
        held.insert(sample / block);
        RC_ASSERT(read.insert(sample / block).second);
    }
    std::sort(visited.begin(), visited.end());
    for (std::int64_t i = 0; i < samples; ++i)
        RC_ASSERT(visited[static_cast<std::size_t>(i)] == i);
}

// 7 samples in blocks of 3, 3 and 1, two of them together: 24,000 epochs. Each pair of blocks is first as often, and
// within the first group each sample comes first as often. Bounds as below, of 2, and 5 and 3 degrees of freedom.
TEST(SampleOrder, BlocksAndTheirSamplesAreEquallyLikely) {
    const SampleOrder order({.kind = "shuffle", .seed = 11, .samples = 7, .blocks = {3, 2}});
    std::map<std::set<std::int64_t>, std::map<std::int64_t, int>> firsts; // blocks of the first group: first samples
    for (std::int64_t epoch = 0; epoch < 24000; ++epoch) {
        const std::vector<std::int64_t> samples = epoch_of(order, epoch);
        const std::int64_t last = samples.back() / 3; // alone in the second group
        std::set<std::int64_t> others = {0, 1, 2};
        others.erase(last);
        ++firsts[others][samples[0]];
    }
    ASSERT_EQ(firsts.size(), 3u);
    double pairs = 0;
    for (const auto& [blocks, samples] : firsts) {
        int count = 0;
        for (const auto& [sample, times] : samples)
            count += times;
        pairs += (count - 8000.0) * (count - 8000.0) / 8000;
        const std::size_t members = blocks.contains(2) ? 4 : 6;
        ASSERT_EQ(samples.size(), members);
        const double mean = static_cast<double>(count) / static_cast<double>(members);
        double chi_square = 0;
        for (const auto& [sample, times] : samples)
            chi_square += (times - mean) * (times - mean) / mean;
        EXPECT_LT(chi_square, members == 6 ? 36.0 : 30.7);
    }
    EXPECT_LT(pairs, 27.7);
}

TEST(SampleOrder, LargeDataInBlocksNeedNoTable) {
    const std::int64_t samples = (std::int64_t{1} << 45) + 5;
    const SampleOrder order({.kind = "shuffle", .seed = 1, .samples = samples, .blocks = {1000, 8}});
    std::set<std::int64_t> visited, blocks;
    for (std::int64_t i = 0; i < 16000; ++i) {
        visited.insert(order.sample(samples * 3 + i));
        blocks.insert(order.sample(samples * 3 + i) / 1000);
    }
    EXPECT_EQ(visited.size(), 16000u);
    EXPECT_EQ(blocks.size(), 16u);
}

TEST(SampleOrder, StreamsReadOn) {
    const SampleOrder order({"stream", 1, 100, 7, 4}); // 15 windows: 3 for each of 4 streams
    ASSERT_EQ(order.per_epoch(), 12);
    const std::vector<std::int64_t> expected = {0, 21, 42, 63, 7, 28, 49, 70, 14, 35, 56, 77};
    EXPECT_EQ(epoch_of(order, 0), expected);
    EXPECT_EQ(epoch_of(order, 3), expected);
    EXPECT_THROW(SampleOrder({"stream", 1, 100, 7, 16}), DataError);
}

TEST(SampleOrder, EpochsAndSeedsDiffer) {
    const SampleOrder order({"shuffle", 1, 1000, 1});
    const SampleOrder other({"shuffle", 2, 1000, 1});
    const SampleOrder again({"shuffle", 1, 1000, 1});
    EXPECT_NE(epoch_of(order, 0), epoch_of(order, 1));
    EXPECT_NE(epoch_of(order, 0), epoch_of(other, 0));
    EXPECT_EQ(epoch_of(order, 5), epoch_of(again, 5));
}

// Chi-square over all permutations of 2, 3 and 4 samples; 24 * 1000 epochs. The bound is the 1 - 1e-6 quantile of the
// chi-square distribution with 1, 5 and 23 degrees of freedom.
TEST(SampleOrder, AllPermutationsAreEquallyLikely) {
    const std::map<std::int64_t, std::pair<int, double>> expected = {{2, {2, 23.9}}, {3, {6, 36.0}}, {4, {24, 70.0}}};
    for (const auto& [samples, bound] : expected) {
        const auto [permutations, largest] = bound;
        const SampleOrder order({"shuffle", 11, samples, 1});
        std::map<std::vector<std::int64_t>, int> counts;
        for (std::int64_t epoch = 0; epoch < 24000; ++epoch)
            ++counts[epoch_of(order, epoch)];
        ASSERT_EQ(counts.size(), static_cast<std::size_t>(permutations));
        const double mean = 24000.0 / permutations;
        double chi_square = 0;
        for (const auto& [permutation, count] : counts)
            chi_square += (count - mean) * (count - mean) / mean;
        EXPECT_LT(chi_square, largest) << samples << " samples";
    }
}

TEST(SampleOrder, NeighboursAreNotCorrelated) {
    const SampleOrder order({"shuffle", 5, 10007, 1});
    std::int64_t rising = 0;
    for (std::int64_t i = 1; i < 10007; ++i)
        rising += order.sample(i) > order.sample(i - 1);
    EXPECT_NEAR(static_cast<double>(rising), 5003, 150); // standard deviation sqrt(10007 / 12) = 29
}

TEST(SampleOrder, EveryPhaseComesUp) {
    const SampleOrder order({"shuffle", 1, 103, 10});
    std::set<std::int64_t> phases;
    for (std::int64_t epoch = 0; epoch < 300; ++epoch)
        phases.insert(order.sample(epoch * order.per_epoch()) % 10);
    EXPECT_EQ(phases.size(), 10u);
}

TEST(SampleOrder, FewerSamplesThanAWindowStayInside) {
    const SampleOrder order({"shuffle", 1, 3, 1000});
    EXPECT_EQ(order.per_epoch(), 1);
    std::set<std::int64_t> visited;
    for (std::int64_t epoch = 0; epoch < 100; ++epoch)
        visited.insert(order.sample(epoch));
    EXPECT_EQ(visited, (std::set<std::int64_t>{0, 1, 2}));
}

TEST(SampleOrder, LargeDataNeedsNoTable) {
    const std::int64_t samples = std::int64_t{1} << 45;
    const SampleOrder order({"shuffle", 1, samples, 1});
    std::set<std::int64_t> visited;
    for (std::int64_t i = 0; i < 20000; ++i)
        visited.insert(order.sample(samples * 3 + i));
    EXPECT_EQ(visited.size(), 20000u);
    EXPECT_GT(*visited.rbegin(), samples / 10 * 9);
    EXPECT_LT(*visited.rbegin(), samples);
}

TEST(SampleOrder, SequentialWalksTheWindowsAndStartsAgain) {
    const SampleOrder order({"sequential", 1, 21, 10});
    EXPECT_EQ(order.per_epoch(), 3);
    EXPECT_EQ(epoch_of(order, 0), (std::vector<std::int64_t>{0, 10, 20}));
    EXPECT_EQ(epoch_of(order, 1), epoch_of(order, 0));
}

TEST(SampleOrder, RandomDrawsAllSamplesEvenly) {
    const SampleOrder order({"random", 1, 50, 8});
    std::vector<int> counts(50);
    for (std::int64_t i = 0; i < 50000; ++i)
        ++counts[static_cast<std::size_t>(order.sample(i))];
    for (const int count : counts)
        EXPECT_NEAR(count, 1000, 6 * 31.6);
}

TEST(SampleOrder, RefusesWhatCannotBeOrdered) {
    expect_refusal(
        [] {
            SampleOrder({"shufle", 1, 10, 1});
        },
        "no sample order named 'shufle'; did you mean 'shuffle'?");
    expect_refusal(
        [] {
            SampleOrder({"shuffle", 1, 0, 1});
        },
        "there are no samples to put in order: this part of the data is empty");
    EXPECT_THROW(SampleOrder({"shuffle", 1, 10, 0}), InternalError);
    EXPECT_THROW(SampleOrder({"shuffle", 1, 10, 1}).sample(-1), InternalError);
}
