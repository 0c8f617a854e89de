// SPDX-License-Identifier: Apache-2.0
// What every strategy in the catalog must keep to, and what data parallelism says.
#include "kernels/error.hpp"
#include "parallel/layout/redistribute.hpp"
#include "parallel/strategies/catalog.hpp"

#include <algorithm>
#include <gtest/gtest.h>

using namespace tessera;

TEST(Strategies, TheCatalogIsAlphabeticalAndMakesWhatItLists) {
    const auto names = strategy_names();
    EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
    for (const std::string_view name : names) {
        const auto strategy = make_strategy(name, {"some_axis", 2});
        EXPECT_EQ(strategy->axis(), "some_axis");
        const ParameterPlacement placed = strategy->place({"fc1.weight", Shape{8, 4}, "weight", 0});
        EXPECT_NO_THROW(redistribution(placed.rest, placed.use)) << name;
        EXPECT_NO_THROW(redistribution(Placement::partial(), placed.gradient)) << name;
    }
}

TEST(Strategies, AnUnknownNameNamesTheNearest) {
    try {
        make_strategy("dota", {"data", 2});
        FAIL();
    } catch (const ConfigError& error) {
        EXPECT_STREQ(error.what(), "no strategy named 'dota'; did you mean 'data'?");
    }
}

TEST(Strategies, DataParallelReplicatesTheModelAndShardsSamples) {
    const auto strategy = make_strategy("data", {"data", 2});
    const ParameterPlacement placed = strategy->place({"fc1.weight", Shape{8, 4}, "weight", 0});
    for (const Placement placement : {placed.rest, placed.use, placed.gradient, placed.state})
        EXPECT_EQ(placement, Placement::replicate());
    EXPECT_EQ(strategy->activation(), Placement::shard(0));
}
