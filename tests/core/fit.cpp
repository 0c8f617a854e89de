// SPDX-License-Identifier: Apache-2.0
// What a plan that does not fit is answered with.
#include "core/run/fit.hpp"
#include "core/run/memory_limit.hpp"
#include "tests/core/tiny_gpt.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <set>

using namespace tessera;
using testing::HasSubstr;
using testing::Not;

namespace {

std::int64_t need(const std::vector<std::string>& overrides) { return plan_tiny(overrides, 0, 1).memory.total(); }

std::string ways(std::int64_t bytes) {
    const Config config = tiny_config();
    return ways_to_fit(config, {0, 1, true}, tiny_dataset(config).get(), CpuStream(1), bytes);
}

} // namespace

TEST(Fit, NamesChangesThatReallyFit) {
    const std::int64_t halved = need({"training.local_batch_size=1"});
    const std::string text = ways(halved);
    EXPECT_THAT(text, HasSubstr("training.local_batch_size=1: "));
    EXPECT_THAT(ways(halved - 1), Not(HasSubstr("training.local_batch_size=1: ")));
    EXPECT_THAT(ways(need({"training.dtype=bf16"})), HasSubstr("training.dtype=\"bf16\": "));
    EXPECT_THAT(ways(need({"run.reproducible=false"})), HasSubstr("run.reproducible=false: "));
}

TEST(Fit, SaysNothingWhereNothingHelps) { EXPECT_EQ(ways(1000), ""); }

TEST(Fit, TheTableHasEveryKindAndTheTotal) {
    MemoryNeed memory;
    memory[MemoryKind::weights] = 1048576;
    memory[MemoryKind::data] = 64;
    const std::string table = memory_table(memory);
    for (std::size_t i = 0; i < memory_kinds; ++i)
        EXPECT_THAT(table, HasSubstr(std::string(name_of(static_cast<MemoryKind>(i)))));
    EXPECT_THAT(table, HasSubstr("1,048,640"));
}

TEST(MemoryLimit, SizesAreReadStrictly) {
    EXPECT_EQ(bytes_named("7B"), 7);
    EXPECT_EQ(bytes_named("1.5KiB"), 1536);
    EXPECT_EQ(bytes_named("512 MiB"), std::int64_t{512} << 20);
    EXPECT_EQ(bytes_named("80GiB"), std::int64_t{80} << 30);
    EXPECT_EQ(bytes_named("2TiB"), std::int64_t{2} << 40);
    for (const char* text : {"", "8", "GiB", "8 gigs", "8Gib", "8GB", "0GiB", "-1GiB", "1e3MiB", "8  GiB", "8GiB ",
                             " 8GiB", "nanGiB", "infGiB", "0x8GiB", "9999999TiB"})
        EXPECT_FALSE(bytes_named(text)) << "'" << text << "'";
}

namespace {

// The key's value once it is settled, or the refusal.
std::string chosen(std::int64_t limit, std::vector<std::string> words = {}, RankView view = {0, 1, true}) {
    words.push_back("training.recompute=auto");
    words.push_back("run.memory_limit=" + std::to_string(limit) + "B");
    Config config = tiny_config(words);
    try {
        const std::string line = settle_recompute(config, view, tiny_dataset(config).get(), CpuStream(1));
        EXPECT_THAT(line, HasSubstr("recompute: " + config.get(training_recompute) + ", the least that fits"));
    } catch (const ConfigError& error) {
        return error.what();
    }
    return config.get(training_recompute);
}

} // namespace

TEST(MemoryLimit, ChoosesTheLeastRecomputationThatFits) {
    const std::int64_t none = need({}), selective = need({"training.recompute=selective"});
    const std::int64_t full = need({"training.recompute=full"});
    ASSERT_LT(full, selective);
    ASSERT_LT(selective, none);
    EXPECT_EQ(chosen(none), "none");
    EXPECT_EQ(chosen(none - 1), "selective");
    EXPECT_EQ(chosen(selective), "selective");
    EXPECT_EQ(chosen(selective - 1), "full");
    EXPECT_EQ(chosen(full), "full");
    const std::string refusal = chosen(full - 1);
    EXPECT_THAT(refusal, HasSubstr("rank 0 needs "));
    EXPECT_THAT(refusal, HasSubstr("activations"));
    EXPECT_THAT(refusal, HasSubstr("training.dtype=\"bf16\": "));
    EXPECT_THAT(refusal, Not(HasSubstr("recompute")));
}

// 8 micro-batches on 3 ranks are shared out unevenly; where ZeRO cuts a tensor, the first rank has more of it.
TEST(MemoryLimit, IsThatOfTheRankThatNeedsMostOnAllRanks) {
    for (const std::vector<std::string>& words :
         {std::vector<std::string>{}, {"parallelism.zero_stage=1", "data.vocab_size=1000"}}) {
        std::set<std::int64_t> needs;
        for (const int rank : {0, 1, 2})
            needs.insert(plan_tiny(words, rank, 3).memory.total());
        ASSERT_GT(needs.size(), 1u);
        for (const int rank : {0, 1, 2}) {
            EXPECT_EQ(chosen(*needs.rbegin(), words, {rank, 3, true}), "none");
            EXPECT_EQ(chosen(*needs.rbegin() - 1, words, {rank, 3, true}), "selective");
        }
    }
}

TEST(MemoryLimit, RefusesWhatNeedsMore) {
    const std::int64_t bytes = need({});
    const auto check = [&](std::int64_t limit) {
        const Config config = tiny_config({"run.memory_limit=" + std::to_string(limit) + "B"});
        check_limit(config, {}, tiny_dataset(config).get(), CpuStream(1));
    };
    EXPECT_NO_THROW(check(bytes));
    EXPECT_THROW(check(bytes - 1), ConfigError);
}
