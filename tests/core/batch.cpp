// SPDX-License-Identifier: Apache-2.0
// The batch arithmetic: any two numbers tell the third, and what does not fit is refused with all numbers.
#include "core/run/batch.hpp"

#include "core/config_catalog.hpp"
#include "kernels/error.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace tessera;
using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

// As a config says them; 0: not said.
struct Said {
    std::int64_t global, local, accumulation;
    int ranks;
};

Batch solve(const Said& said) {
    std::string text = "[training]\n";
    if (said.global != 0) text += fmt::format("global_batch_size = {}\n", said.global);
    if (said.local != 0) text += fmt::format("local_batch_size = {}\n", said.local);
    if (said.accumulation != 0) text += fmt::format("gradient_accumulation_steps = {}\n", said.accumulation);
    return solve_batch(Config::parse(text, "test.toml", {}, known_keys()), said.ranks);
}

} // namespace

TEST(Batch, AnyTwoTellTheThird) {
    struct Solved {
        Said said;
        std::int64_t global, micro_batch, micro_batches;
    };
    for (const Solved& row : std::vector<Solved>{
             {{12, 0, 0, 1}, 12, 12, 1}, // one number is enough: no accumulation
             {{12, 0, 0, 4}, 12, 3, 4},
             {{0, 3, 0, 4}, 12, 3, 4},
             {{12, 3, 0, 1}, 12, 3, 4},
             {{12, 3, 0, 2}, 12, 3, 4},
             {{12, 3, 0, 4}, 12, 3, 4},
             {{12, 0, 3, 2}, 12, 2, 6},
             {{0, 3, 2, 2}, 12, 3, 4},
             {{12, 3, 2, 2}, 12, 3, 4},  // all three, in agreement
             {{12, 1, 0, 5}, 12, 1, 12}, // uneven shares
             {{12, 3, 0, 3}, 12, 3, 4},
             {{12, 3, 0, 5}, 12, 3, 4}, // one rank has none
             {{1, 1, 1, 1}, 1, 1, 1},
         }) {
        const Batch batch = solve(row.said);
        SCOPED_TRACE(fmt::format("global {} local {} accumulation {} ranks {}", row.said.global, row.said.local,
                                 row.said.accumulation, row.said.ranks));
        EXPECT_EQ(batch.global, row.global);
        EXPECT_EQ(batch.micro_batch, row.micro_batch);
        EXPECT_EQ(batch.micro_batches, row.micro_batches);
        EXPECT_EQ(batch.fixed_micro_batch, row.said.local != 0);
    }
}

TEST(Batch, SaysWhatEachRankGets) {
    EXPECT_EQ(solve({12, 3, 0, 2}).text(2, 2), "global batch 12 = 4 micro-batches of 3; per rank: 2");
    EXPECT_EQ(solve({12, 3, 0, 3}).text(1, 2),
              "global batch 12 = 4 micro-batches of 3; per rank: 1 to 2 (uneven: the others wait)");
    EXPECT_EQ(solve({12, 3, 0, 5}).text(0, 1),
              "global batch 12 = 4 micro-batches of 3; per rank: none to 1 (some have no work and wait)");
}

TEST(Batch, RefusesWhatDoesNotFit) {
    struct Refused {
        Said said;
        std::vector<std::string> parts;
    };
    for (const Refused& row : std::vector<Refused>{
             {{0, 0, 0, 2}, {"training.global_batch_size or training.local_batch_size"}},
             {{0, 0, 4, 2}, {"training.global_batch_size or training.local_batch_size"}},
             {{13, 0, 0, 2}, {"global_batch_size = 13", "2 equal micro-batches (2 ranks x 1 accumulation steps)"}},
             {{12, 0, 5, 2}, {"global_batch_size = 12", "10 equal micro-batches (2 ranks x 5 accumulation steps)"}},
             {{13, 3, 0, 1}, {"global_batch_size = 13", "no multiple of training.local_batch_size = 3"}},
             {{12, 3, 3, 2},
              {"gradient_accumulation_steps = 3", "3 micro-batches of 3 on 2 ranks make a global batch of 18, not 12"}},
             {{-12, 3, 0, 1}, {"global_batch_size = -12", "at least 1, or 0"}},
             {{12, -3, 0, 1}, {"local_batch_size = -3", "at least 1, or 0"}},
             {{12, 3, -1, 1}, {"gradient_accumulation_steps = -1", "at least 1, or 0"}},
         })
        for (const std::string& part : row.parts)
            EXPECT_THAT([&] { solve(row.said); }, ThrowsMessage<ConfigError>(HasSubstr(part)));
}
