// SPDX-License-Identifier: Apache-2.0
// The shards of a vocabulary together against the whole: losses, gradients and statistics, on even and uneven shards.
#include "kernels/cross_entropy_shard.hpp"

#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <cmath>
#include <deque>
#include <limits>

using namespace tessera;

namespace cross_entropy_shard_test {
using kernels::VocabularyShard;

namespace {

constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};

void poison(Sample& sample) {
    for (std::int64_t i = 0; i < sample.count(); ++i)
        sample.set(i, std::numeric_limits<double>::quiet_NaN());
}

struct Sizes {
    std::int64_t rows, classes;
    int shards;
};
// More shards than classes leave some without a column; three sizes of a team on the GPU.
constexpr Sizes sizes[] = {{1, 1, 1},     {5, 7, 10},    {130, 65, 1},  {130, 65, 2},
                           {35, 1000, 3}, {6, 20000, 4}, {4, 50257, 8}, {3, 50257, 2}};

// The whole: logits, and what the ranks must have in the end.
struct Whole {
    Sample logits, targets, scale;

    Whole(Sizes size, DType type)
        : logits(Shape{size.rows, size.classes}, type, 1, -8, 8),
          targets(Shape{size.rows}, DType::i32, 2, 0, static_cast<double>(size.classes)), scale(Shape{}, DType::f32) {
        scale.set(0, 0.125);
        if (size.rows > 2) targets.set(1, kernels::ignore_index);
        targets.set(size.rows - 1, static_cast<double>(size.classes - 1));
    }
    std::int64_t rows() const { return targets.count(); }
    std::int64_t classes() const { return logits.count() / rows(); }
    double logit(std::int64_t r, std::int64_t c) const { return logits[r * classes() + c]; }
};

// One rank's part.
struct Rank {
    VocabularyShard shard;
    Sample logits, losses, dlogits;

    Rank(const Whole& whole, std::int64_t first, std::int64_t columns)
        : shard{first, whole.classes()}, logits(Shape{whole.rows(), columns}, whole.logits.dtype()),
          losses(Shape{whole.rows()}, DType::f32), dlogits(logits.view().shape, logits.dtype()) {
        for (std::int64_t i = 0; i < logits.count(); ++i)
            logits.set(i, whole.logit(i / columns, first + i % columns));
        poison(losses);
        poison(dlogits);
    }
    std::int64_t columns() const { return logits.count() / losses.count(); }
};

std::deque<Rank> ranks_of(const Whole& whole, int shards) {
    std::deque<Rank> ranks;
    std::int64_t first = 0;
    for (int rank = 0; rank < shards; ++rank) {
        const std::int64_t columns = whole.classes() / shards + (rank < whole.classes() % shards ? 1 : 0);
        ranks.emplace_back(whole, first, columns);
        first += columns;
    }
    return ranks;
}

// All three steps; what communication does, one memory for all ranks does. Every other rank overwrites its logits.
template <class Device>
void run(Device& on, const Whole& whole, std::deque<Rank>& ranks, const Sample& statistics, const Sample& combined) {
    const View gathered = on(statistics);
    const std::int64_t each = 3 * whole.rows();
    for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
        const View own(gathered.as<float>() + static_cast<std::int64_t>(rank) * each, {3, whole.rows()}, DType::f32);
        kernels::cross_entropy_shard_statistics(on.stream(), on(ranks[rank].logits), on(whole.targets),
                                                ranks[rank].shard, own);
    }
    kernels::combine_cross_entropy_shards(on.stream(), gathered, on(combined));
    for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
        Rank& r = ranks[rank];
        kernels::cross_entropy_shard_gradient(on.stream(), on(r.logits), on(whole.targets), r.shard, on(whole.scale),
                                              on(combined), on(r.losses), on(rank % 2 == 0 ? r.dlogits : r.logits));
    }
    on.finish();
}

struct Expected {
    std::vector<double> losses, gradients; // of the whole
};

Expected expected_of(const Whole& whole) {
    Expected expected;
    for (std::int64_t r = 0; r < whole.rows(); ++r) {
        double sum = 0;
        for (std::int64_t c = 0; c < whole.classes(); ++c)
            sum += std::exp(whole.logit(r, c));
        const bool ignored = whole.targets[r] == kernels::ignore_index;
        const auto target = static_cast<std::int64_t>(whole.targets[r]);
        expected.losses.push_back(ignored ? 0 : std::log(sum) - whole.logit(r, target));
        for (std::int64_t c = 0; c < whole.classes(); ++c)
            expected.gradients.push_back(ignored ? 0
                                                 : 0.125 * (std::exp(whole.logit(r, c)) / sum - (c == target ? 1 : 0)));
    }
    return expected;
}

std::vector<double> columns_of(const std::vector<double>& whole, const Rank& rank) {
    std::vector<double> columns;
    for (std::int64_t i = 0; i < rank.logits.count(); ++i)
        columns.push_back(whole[static_cast<std::size_t>(i / rank.columns() * rank.shard.classes + rank.shard.first +
                                                         i % rank.columns())]);
    return columns;
}

Sample statistics_of(const Whole& whole, int shards) {
    Sample statistics(Shape{shards, 3, whole.rows()}, DType::f32);
    poison(statistics);
    return statistics;
}

} // namespace

template <class Device> class CrossEntropyShard : public testing::Test {};
TYPED_TEST_SUITE(CrossEntropyShard, Devices, DeviceNames);

TYPED_TEST(CrossEntropyShard, TogetherTheyAreTheWhole) {
    for (const DType type : types)
        for (const Sizes size : sizes) {
            SCOPED_TRACE(testing::Message() << size.rows << " x " << size.classes << " in " << size.shards);
            TypeParam on;
            const Whole whole(size, type);
            const Expected expected = expected_of(whole);
            std::deque<Rank> ranks = ranks_of(whole, size.shards);
            const Sample statistics = statistics_of(whole, size.shards), combined = statistics_of(whole, 1);
            run(on, whole, ranks, statistics, combined);
            for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
                const Rank& r = ranks[rank];
                EXPECT_TRUE(close_to(r.losses, expected.losses, tolerance(DType::f32, Kind::loss)));
                EXPECT_TRUE(r.losses.same_bits(ranks[0].losses));
                EXPECT_TRUE(close_to(rank % 2 == 0 ? r.dlogits : r.logits, columns_of(expected.gradients, r),
                                     tolerance(type, Kind::function)));
            }
        }
}

TYPED_TEST(CrossEntropyShard, TheStatisticsAreThoseOfTheColumns) {
    TypeParam on;
    const Whole whole({20, 67, 3}, DType::f32);
    std::deque<Rank> ranks = ranks_of(whole, 3);
    const Sample statistics = statistics_of(whole, 3), combined = statistics_of(whole, 1);
    run(on, whole, ranks, statistics, combined);
    for (std::int64_t r = 0; r < 20; ++r) {
        if (r == 1) continue;
        double highest = -1e9, sum = 0;
        for (std::size_t rank = 0; rank < 3; ++rank) {
            const VocabularyShard& shard = ranks[rank].shard;
            const auto of = [&](int kind) { return statistics[(static_cast<std::int64_t>(rank) * 3 + kind) * 20 + r]; };
            double high = -1e9, powers = 0;
            for (std::int64_t c = shard.first; c < shard.first + ranks[rank].columns(); ++c)
                high = std::max(high, whole.logit(r, c));
            for (std::int64_t c = shard.first; c < shard.first + ranks[rank].columns(); ++c)
                powers += std::exp(whole.logit(r, c) - high);
            EXPECT_EQ(of(0), high);
            EXPECT_NEAR(of(1), powers, 1e-6 * powers);
            const double column = whole.targets[r] - static_cast<double>(shard.first);
            const bool here = column >= 0 && column < static_cast<double>(ranks[rank].columns());
            EXPECT_EQ(of(2), here ? whole.logit(r, static_cast<std::int64_t>(whole.targets[r])) : 0);
            highest = std::max(highest, high);
        }
        for (std::int64_t c = 0; c < 67; ++c)
            sum += std::exp(whole.logit(r, c) - highest);
        EXPECT_EQ(combined[r], highest);
        EXPECT_NEAR(combined[20 + r], sum, 1e-6 * sum);
        EXPECT_EQ(combined[40 + r], whole.logit(r, static_cast<std::int64_t>(whole.targets[r])));
    }
}

TYPED_TEST(CrossEntropyShard, LossesAlone) {
    TypeParam on;
    const Whole whole({33, 65, 2}, DType::bf16);
    std::deque<Rank> ranks = ranks_of(whole, 2);
    const Sample statistics = statistics_of(whole, 2), combined = statistics_of(whole, 1);
    run(on, whole, ranks, statistics, combined);
    const Sample alone(Shape{33}, DType::f32);
    kernels::cross_entropy_shard_gradient(on.stream(), on(ranks[0].logits), on(whole.targets), ranks[0].shard, {},
                                          on(combined), on(alone), {});
    on.finish();
    EXPECT_TRUE(alone.same_bits(ranks[0].losses));
}

TYPED_TEST(CrossEntropyShard, ShardsOfMinusInfinityHaveNoShare) {
    TypeParam on;
    Whole whole({3, 9000, 3}, DType::f32);
    for (std::int64_t i = 0; i < whole.logits.count(); ++i)
        if (i % 9000 < 6000) whole.logits.set(i, -std::numeric_limits<double>::infinity());
    for (const std::int64_t r : {0, 1, 2})
        whole.targets.set(r, static_cast<double>(8000 + r));
    std::deque<Rank> ranks = ranks_of(whole, 3);
    const Sample statistics = statistics_of(whole, 3), combined = statistics_of(whole, 1);
    run(on, whole, ranks, statistics, combined);
    EXPECT_TRUE(close_to(ranks[0].losses, expected_of(whole).losses, tolerance(DType::f32, Kind::loss)));
    for (std::int64_t i = 0; i < ranks[0].dlogits.count(); ++i)
        ASSERT_EQ(ranks[0].dlogits[i], 0);
}

TYPED_TEST(CrossEntropyShard, NanIsSeenByAll) {
    TypeParam on;
    Whole whole({3, 60, 3}, DType::f32);
    whole.logits.set(2 * 60 + 30, std::nan(""));
    std::deque<Rank> ranks = ranks_of(whole, 3);
    const Sample statistics = statistics_of(whole, 3), combined = statistics_of(whole, 1);
    run(on, whole, ranks, statistics, combined);
    for (const Rank& rank : ranks) {
        EXPECT_TRUE(std::isfinite(rank.losses[0]));
        EXPECT_TRUE(std::isnan(rank.losses[2]));
    }
}

TEST(CrossEntropyShardOnCpu, TheSameBitsForAnyThreads) {
    for (const DType type : types)
        for (Sample Rank::*result : {&Rank::losses, &Rank::dlogits})
            expect_same_bits_for_any_threads([&](CpuStream& stream) {
                OnCpu on(stream.threads());
                const Whole whole({501, 97, 2}, type);
                std::deque<Rank> ranks = ranks_of(whole, 2);
                const Sample statistics = statistics_of(whole, 2), combined = statistics_of(whole, 1);
                run(on, whole, ranks, statistics, combined);
                return ranks[0].*result;
            });
}

TYPED_TEST(CrossEntropyShard, ATargetOutsideTheVocabularyIsNamed) {
    for (const int wrong : {70, 65, -2}) {
        Whole whole({8, 65, 2}, DType::f32);
        whole.targets.set(5, wrong);
        std::deque<Rank> ranks = ranks_of(whole, 2);
        const Sample statistics = statistics_of(whole, 2), combined = statistics_of(whole, 1);
        try {
            TypeParam on;
            run(on, whole, ranks, statistics, combined);
            FAIL();
        } catch (const ConfigError& error) {
            EXPECT_EQ(error.what(),
                      "target " + std::to_string(wrong) + " at position 5 is outside the vocabulary of 65");
        }
    }
}

TYPED_TEST(CrossEntropyShard, WrongSizesAreRefused) {
    TypeParam on;
    const Whole whole({4, 10, 2}, DType::f32);
    const Sample statistics(Shape{3, 4}, DType::f32), five(Shape{5}, DType::f32);
    const auto take = [&](VocabularyShard shard, const Sample& to) {
        kernels::cross_entropy_shard_statistics(on.stream(), on(whole.logits), on(whole.targets), shard, on(to));
    };
    EXPECT_NO_THROW(take({0, 10}, statistics));
    EXPECT_THROW(take({-1, 10}, statistics), InternalError);
    EXPECT_THROW(take({0, 10}, five), InternalError);
    EXPECT_THROW(kernels::combine_cross_entropy_shards(on.stream(), on(five), on(statistics)), InternalError);
    EXPECT_THROW(kernels::combine_cross_entropy_shards(on.stream(), on(statistics), on(five)), InternalError);
    EXPECT_THROW(kernels::cross_entropy_shard_gradient(on.stream(), on(whole.logits), on(whole.targets), {0, 10},
                                                       on(whole.scale), on(statistics), on(five), on(whole.logits)),
                 InternalError);
    on.finish();
}

namespace {

bool near(const Sample& found, const std::vector<double>& expected, double allowed) {
    for (std::int64_t i = 0; i < found.count(); ++i) {
        const double value = expected[static_cast<std::size_t>(i)];
        if (!(std::abs(found[i] - value) <= allowed * std::abs(value))) return false;
    }
    return true;
}

} // namespace

// Columns behind the vocabulary are not read, and their gradient is 0: as if they were not there.
TYPED_TEST(CrossEntropyShard, MayEndInPadding) {
    TypeParam on;
    for (const DType type : {DType::f32, DType::bf16})
        for (const std::int64_t padding : {1, 7, 40}) {
            const std::int64_t rows = 9, used = 33, columns = used + padding;
            Sample padded(Shape{rows, columns}, type, 1);
            Sample plain(Shape{rows, used}, type);
            for (std::int64_t i = 0; i < rows * columns; ++i)
                if (i % columns < used)
                    plain.set(i / columns * used + i % columns, padded[i]);
                else
                    padded.set(i, std::numeric_limits<double>::quiet_NaN());
            const Sample targets(Shape{rows}, DType::i32, 2, 0, 100), scale(Shape{}, DType::f32, 3);
            const kernels::VocabularyShard shard{67, 100}; // its last
            Sample of_padded(Shape{3, rows}, DType::f32), of_plain(of_padded);
            const Sample losses(Shape{rows}, DType::f32), other_losses(losses);
            kernels::cross_entropy_shard_statistics(on.stream(), on(padded), on(targets), shard, on(of_padded));
            kernels::cross_entropy_shard_statistics(on.stream(), on(plain), on(targets), shard, on(of_plain));
            on.finish();
            const double allowed =
                type == DType::f32 ? 1e-6 : 1e-2; // rows begin elsewhere in vectors, in another order
            EXPECT_TRUE(near(of_padded, of_plain.values(), allowed)) << padding;
            kernels::cross_entropy_shard_gradient(on.stream(), on(padded), on(targets), shard, on(scale), on(of_padded),
                                                  on(losses), on(padded));
            kernels::cross_entropy_shard_gradient(on.stream(), on(plain), on(targets), shard, on(scale), on(of_plain),
                                                  on(other_losses), on(plain));
            on.finish();
            EXPECT_TRUE(near(losses, other_losses.values(), allowed)) << padding;
            std::vector<double> expected(static_cast<std::size_t>(rows * columns));
            for (std::int64_t i = 0; i < rows * columns; ++i)
                if (i % columns < used) expected[static_cast<std::size_t>(i)] = plain[i / columns * used + i % columns];
            EXPECT_TRUE(near(padded, expected, allowed)) << padding;
        }
}

} // namespace cross_entropy_shard_test
