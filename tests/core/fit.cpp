// SPDX-License-Identifier: Apache-2.0
// What a plan that does not fit is answered with.
#include "core/run/fit.hpp"
#include "tests/core/tiny_gpt.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace tessera;
using testing::HasSubstr;
using testing::Not;

namespace {

std::int64_t need(const std::vector<std::string>& overrides) {
    const MemoryNeed memory = plan_tiny(overrides, 0, 1).memory;
    return memory.total() - memory[MemoryKind::data];
}

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
