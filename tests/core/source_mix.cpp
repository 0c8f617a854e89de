// SPDX-License-Identifier: Apache-2.0
// How sources are mixed: counts near the weights over any first samples, any place without those before, and an order
// of its own for each source, which others beside it do not change.
#include "core/data/sample_order.hpp"
#include "kernels/error.hpp"
#include "tests/core/data_files.hpp"

#include <algorithm>
#include <numeric>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>
#include <set>

using namespace tessera;

namespace {

// How far the counts of the first `samples` are from the weights' share, at most.
double distance(const std::vector<std::int64_t>& counts, const std::vector<std::int64_t>& weights,
                std::int64_t samples) {
    const auto all = static_cast<double>(std::accumulate(weights.begin(), weights.end(), std::int64_t{0}));
    double most = 0;
    for (std::size_t i = 0; i < weights.size(); ++i)
        most = std::max(most, std::abs(static_cast<double>(counts[i]) -
                                       static_cast<double>(samples) * (static_cast<double>(weights[i]) / all)));
    return most;
}

OrderedSource source(const std::string& name, std::int64_t weight, std::int64_t first, std::int64_t samples,
                     std::int64_t window = 1) {
    return {.name = name, .weight = weight, .first = first, .samples = samples, .window = window};
}

// The samples of one source among the first `samples` of the order, in turn.
std::vector<std::int64_t> samples_of(const SampleOrder& order, std::size_t source, std::int64_t samples) {
    std::vector<std::int64_t> found;
    for (std::int64_t i = 0; i < samples; ++i)
        if (const SampleOrder::Place place = order.place(i); place.source == source) found.push_back(place.sample);
    return found;
}

} // namespace

RC_GTEST_PROP(SourceMix, AnyFirstSamplesHaveTheirShares, ()) {
    const auto weights = *rc::gen::nonEmpty(rc::gen::container<std::vector<std::int64_t>>(
        rc::gen::oneOf(rc::gen::inRange<std::int64_t>(1, 10), rc::gen::inRange<std::int64_t>(1, 100000))));
    const SourceMix mix(weights);
    std::vector<std::int64_t> counts(weights.size());
    for (std::int64_t i = 0; i < 500; ++i) {
        const SourceMix::Place place = mix.place(i);
        RC_ASSERT(place.number == counts[place.source]); // each source's samples come one after the other
        ++counts[place.source];
        RC_ASSERT(counts == mix.counts(i + 1));
        RC_ASSERT(distance(counts, weights, i + 1) < 2);
    }
}

TEST(SourceMix, ManySourcesStayNear) {
    for (const std::int64_t base : {1, 2, 3}) {
        std::vector<std::int64_t> weights; // equal ones, or each the sum of some before: the tree is deep
        for (std::int64_t i = 0, last = 1, next = 1; i < 40; ++i) {
            weights.push_back(next);
            next = base == 1 ? 1 : base == 2 ? std::exchange(last, next) + next : next * 3 / 2 + 1;
        }
        const SourceMix mix(weights);
        double most = 0;
        for (std::int64_t n = 1; n < 200000; n += 1 + n / 500)
            most = std::max(most, distance(mix.counts(n), weights, n));
        EXPECT_LT(most, 2) << base;
        EXPECT_GT(most, 0.4) << base;
    }
}

TEST(SourceMix, NeedsNothingOfWhatCameBefore) {
    const SourceMix mix({std::int64_t{1} << 40, 3, 7'000'000'001});
    for (const std::int64_t begin : {std::int64_t{0}, std::int64_t{1} << 33, (std::int64_t{1} << 61) + 12345}) {
        std::vector<std::int64_t> counts = mix.counts(begin);
        for (std::int64_t i = begin; i < begin + 1000; ++i) {
            const SourceMix::Place place = mix.place(i);
            EXPECT_EQ(place.number, counts[place.source]++);
        }
        EXPECT_EQ(counts, mix.counts(begin + 1000));
    }
    EXPECT_EQ(SourceMix({5}).place(77), (SourceMix::Place{0, 77}));
    const std::vector<std::int64_t> thirds = SourceMix({1, 1, 1}).counts(9);
    EXPECT_EQ(thirds, (std::vector<std::int64_t>{3, 3, 3}));
}

TEST(SourceMix, RefusesWeightsThatAreNone) {
    EXPECT_EQ(whole_weights(std::vector{0.25, 0.75}), (std::vector<std::int64_t>{1ll << 38, 3ll << 38}));
    EXPECT_EQ(whole_weights(std::vector{2.0, 6.0}), (std::vector<std::int64_t>{1ll << 38, 3ll << 38}));
    expect_refusal(
        [] {
            whole_weights(std::vector{1.0, 0.0});
        },
        "the weight of source 2 is 0, expected a number above 0");
    expect_refusal([] { whole_weights(std::vector{-1.0}); }, "the weight of source 1 is -1, expected a number above 0");
    expect_refusal(
        [] {
            whole_weights(std::vector{1.0, 1e-20});
        },
        "the weight of source 2 is 1e-20, too little beside 1 of all");
    EXPECT_THROW(SourceMix({}), InternalError);
    EXPECT_THROW(SourceMix({1, 0}), InternalError);
}

TEST(MixedOrder, EachSourceHasEpochsAndAnOrderOfItsOwn) {
    const SampleOrder order({.seed = 3, .sources = {source("a", 3, 0, 12), source("b", 1, 12, 70, 10)}});
    const std::vector<std::int64_t> a = samples_of(order, 0, 96), b = samples_of(order, 1, 96);
    EXPECT_EQ(a.size(), 72);
    EXPECT_EQ(b.size(), 24);
    std::set<std::vector<std::int64_t>> epochs;
    for (std::size_t epoch = 0; epoch < 6; ++epoch) {
        std::vector<std::int64_t> once(a.begin() + static_cast<std::ptrdiff_t>(epoch * 12),
                                       a.begin() + static_cast<std::ptrdiff_t>(epoch * 12 + 12));
        epochs.insert(once);
        std::ranges::sort(once);
        for (std::int64_t i = 0; i < 12; ++i)
            EXPECT_EQ(once[static_cast<std::size_t>(i)], i);
    }
    EXPECT_EQ(epochs.size(), 6) << "an epoch in the order of another";
    for (const std::int64_t sample : b)
        EXPECT_TRUE(sample >= 12 && sample < 82);
    std::vector<std::int64_t> epoch_numbers;
    for (std::int64_t i = 0; i < 96; ++i)
        if (const SampleOrder::Place place = order.place(i); place.source == 0) epoch_numbers.push_back(place.epoch);
    for (std::size_t i = 0; i < epoch_numbers.size(); ++i)
        EXPECT_EQ(epoch_numbers[i], static_cast<std::int64_t>(i / 12));
    const std::vector<SampleOrder::Progress> progress = order.progress(96);
    EXPECT_EQ(progress[0].samples, 72);
    EXPECT_EQ(progress[0].epochs, 6);
    EXPECT_EQ(progress[1].samples, 24);
    EXPECT_EQ(progress[1].epochs, 24.0 / 7);
    EXPECT_EQ(order.per_epoch(), 12 + 7);
}

TEST(MixedOrder, BlocksStayTogether) {
    OrderedSource stored = source("b", 1, 12, 70);
    stored.blocks = {10, 2};
    const SampleOrder order({.seed = 3, .sources = {source("a", 1, 0, 12), stored}});
    const std::vector<std::int64_t> of_stored = samples_of(order, 1, 140);
    ASSERT_EQ(of_stored.size(), 70u);
    std::set<std::int64_t> all(of_stored.begin(), of_stored.end()), blocks;
    EXPECT_EQ(all.size(), 70u);
    for (std::size_t i = 0; i < 20; ++i)
        blocks.insert((of_stored[i] - 12) / 10);
    EXPECT_EQ(blocks.size(), 2u);
}

TEST(MixedOrder, OthersChangeNoOrder) {
    const SampleOrder two({.seed = 3, .sources = {source("a", 3, 0, 50), source("b", 1, 50, 50)}});
    const SampleOrder three(
        {.seed = 3, .sources = {source("c", 2, 0, 9), source("b", 5, 9, 50), source("a", 1, 59, 50)}});
    const SampleOrder seeded({.seed = 4, .sources = {source("a", 3, 0, 50), source("b", 1, 50, 50)}});
    const auto first = [](const SampleOrder& order, std::size_t source, std::int64_t begin) {
        std::vector<std::int64_t> found = samples_of(order, source, 1000);
        found.resize(100);
        for (std::int64_t& sample : found)
            sample -= begin;
        return found;
    };
    EXPECT_EQ(first(two, 0, 0), first(three, 2, 59));
    EXPECT_EQ(first(two, 1, 50), first(three, 1, 9));
    EXPECT_NE(first(two, 0, 0), first(two, 1, 50));
    EXPECT_NE(first(two, 0, 0), first(seeded, 0, 0));
}
