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

// Where shards are zig-zag, parameters are not cut like them: a rank takes its positions of the whole.
TEST(Strategies, ARingCutsNoParameterAtRest) {
    const ParameterDescription positions{"position.weight", Shape{8, 4}, "position", -1};
    const auto heads = make_strategy("context", {"context", 2}),
               ring = make_strategy("context", {"context", 2}, {.ring = true});
    EXPECT_FALSE(heads->zigzag());
    EXPECT_TRUE(ring->zigzag());
    EXPECT_EQ(ring->activation(), Placement::shard(1));
    EXPECT_EQ(heads->place(positions).rest, Placement::shard(0));
    const StrategyOptions both{.sequence_parallel = true, .ring = true};
    for (const auto& strategy :
         {make_strategy("context", {"context", 2}, both), make_strategy("tensor", {"tensor", 2}, both)}) {
        const ParameterPlacement placed = strategy->place(positions);
        EXPECT_EQ(placed.use, Placement::shard(0));
        for (const Placement there : {placed.rest, placed.gradient, placed.state})
            EXPECT_EQ(there, Placement::replicate());
    }
}

TEST(Strategies, DataParallelReplicatesTheModelAndShardsSamples) {
    const auto strategy = make_strategy("data", {"data", 2});
    const ParameterPlacement placed = strategy->place({"fc1.weight", Shape{8, 4}, "weight", 0});
    for (const Placement placement : {placed.rest, placed.use, placed.gradient, placed.state})
        EXPECT_EQ(placement, Placement::replicate());
    EXPECT_EQ(strategy->activation(), Placement::shard(0));
}

TEST(Strategies, TensorParallelSharesOutEvenlyOrByRoleNotAtAll) {
    const auto strategy = make_strategy("tensor", {"tensor", 3});
    const auto rests = [&](const char* role, const Shape& shape) {
        return strategy->place({"w", shape, role, 0}).rest;
    };
    EXPECT_EQ(rests("column_if_even", {6, 4}), Placement::shard(0));
    EXPECT_EQ(rests("row_if_even", {4, 6}), Placement::shard(1));
    EXPECT_EQ(rests("channels_if_even", {4, 5, 5, 6}), Placement::shard(3));
    EXPECT_EQ(rests("column_if_even", {4, 6}), Placement::replicate());
    EXPECT_EQ(rests("row_if_even", {6, 4}), Placement::replicate());
    EXPECT_EQ(rests("channels_if_even", {6, 6, 6, 2}), Placement::replicate());
    EXPECT_THROW(rests("column", {4, 6}), ConfigError);
}

// What is read from the data is cut by what it is.
TEST(Strategies, AnInputIsPlacedByItsRole) {
    const InputDescription tokens{"tokens", {2, 8}, "tokens"}, image{"image", {2, 8, 8, 3}, "image"},
        labels{"labels", {2}, ""};
    const auto of = [](std::string_view name, const InputDescription& input) {
        return make_strategy(name, {"axis", 2})->input(input);
    };
    EXPECT_EQ(of("context", tokens), Placement::shard(1));
    EXPECT_EQ(of("context", image), Placement::replicate());
    EXPECT_EQ(of("context", labels), Placement::replicate());
    EXPECT_EQ(of("spatial", image), Placement::shard(1));
    EXPECT_EQ(of("spatial_width", image), Placement::shard(2));
    for (const std::string_view name : {"spatial", "spatial_width"})
        for (const InputDescription& input : {tokens, labels})
            EXPECT_EQ(of(name, input), Placement::replicate());
    for (const InputDescription& input : {tokens, image, labels}) {
        EXPECT_EQ(of("data", input), Placement::shard(0));
        EXPECT_EQ(of("expert", input), Placement::shard(0));
        EXPECT_EQ(of("sample", input), Placement::shard(0));
        EXPECT_EQ(of("tensor", input), Placement::replicate());
    }
}
