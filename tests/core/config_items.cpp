// SPDX-License-Identifier: Apache-2.0
// Arrays of tables in a config: their values with places, what overrules what, the text that parses to the same again,
// and every refusal.
#include "core/config.hpp"
#include "kernels/error.hpp"

#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

using namespace tessera;
using testing::ElementsAre;
using testing::HasSubstr;

namespace {

constexpr Key<std::int64_t> dim{"model.dim", 8, "a key beside the array"};
constexpr Key<std::string> name{"model.layers[].name", "", "a name"};
constexpr Key<std::int64_t> width{"model.layers[].width", 7, "a number"};
constexpr Key<std::vector<std::int64_t>> kernel{"model.layers[].kernel", "1", "one number, or two"};
constexpr Key<std::vector<std::string>> inputs{"model.layers[].inputs", "", "names"};

constexpr std::string_view text = "[model]\ndim = 3\n[[model.layers]]\nname = 'a'\nkernel = [3, 5]\n\n"
                                  "[[model.layers]]\nname = 'b'\nwidth = 9\nkernel = 4\ninputs = ['a']\n";

std::vector<KeyInfo> catalog() {
    return {key_info(dim), key_info(name), key_info(width), key_info(kernel), key_info(inputs)};
}

Config parse_items(std::string_view toml, const std::vector<std::string>& overrides = {}) {
    return Config::parse(toml, "m.toml", overrides, catalog());
}

std::string refusal_of_items(std::string_view toml, const std::vector<std::string>& overrides = {}) {
    try {
        parse_items(toml, overrides);
    } catch (const ConfigError& error) {
        return error.what();
    }
    return "accepted";
}

void expect_the_two(const Config& config) {
    const std::vector<ConfigItem> items = config.items("model.layers");
    ASSERT_EQ(items.size(), 2u);
    EXPECT_EQ(items[0].get(name), "a");
    EXPECT_EQ(items[0].get(width), 7);
    EXPECT_THAT(items[0].get(kernel), ElementsAre(3, 5));
    EXPECT_FALSE(items[0].is_set(width.name));
    EXPECT_THAT(items[0].keys_set(), ElementsAre(kernel.name, name.name));
    EXPECT_EQ(items[1].get(width), 9);
    EXPECT_THAT(items[1].get(kernel), ElementsAre(4)); // one integer is a list of one
    EXPECT_THAT(items[1].get(inputs), ElementsAre("a"));
}

} // namespace

TEST(ConfigItems, AreReadInTheirOrderWithTheirPlaces) {
    const Config config = parse_items(text);
    expect_the_two(config);
    EXPECT_EQ(config.items("model.layers")[1].where(), "m.toml:7:1");
    EXPECT_EQ(config.get(dim), 3);
    EXPECT_TRUE(parse_items("").items("model.layers").empty());
}

TEST(ConfigItems, ReadBackFromTheirText) {
    const Config config = parse_items(text);
    expect_the_two(parse_items(config.resolved()));
    EXPECT_EQ(parse_items(config.resolved()).resolved(), config.resolved());
    EXPECT_THAT(config.in_use(), "");
    config.items("model.layers");
    expect_the_two(parse_items(config.in_use()));
    EXPECT_THAT(config.origins(), HasSubstr("model.layers[1].width = 9"));
}

TEST(ConfigItems, OfAFileReplaceThoseOfItsBase) {
    namespace fs = std::filesystem;
    const fs::path folder = fs::temp_directory_path() / fmt::format("tessera-items-{}", getpid());
    fs::create_directories(folder);
    std::ofstream(folder / "base.toml") << text;
    const auto load = [&](std::string_view own) {
        const fs::path file = folder / "m.toml";
        std::ofstream(file) << "base = 'base.toml'\n" << own;
        return Config::load(file.string(), {}, catalog());
    };
    expect_the_two(load("[model]\ndim = 1\n"));
    const std::vector<ConfigItem> items = load("[[model.layers]]\nname = 'c'\n").items("model.layers");
    ASSERT_EQ(items.size(), 1u);
    EXPECT_EQ(items[0].get(name), "c");
    fs::remove_all(folder);
}

TEST(ConfigItems, AreOverriddenByName) {
    const Config config = parse_items(text, {"model.layers.a.width=2", "model.layers.b.kernel=[1, 2]"});
    EXPECT_EQ(config.items("model.layers")[0].get(width), 2);
    EXPECT_THAT(config.items("model.layers")[1].get(kernel), ElementsAre(1, 2));
}

TEST(ConfigItems, AreRefusedWithTheirPlace) {
    EXPECT_EQ(refusal_of_items("[[model.layers]]\nwidht = 1\n"),
              "m.toml:2:1: no key of [[model.layers]] named 'widht'; did you mean 'width'?");
    EXPECT_THAT(refusal_of_items("[[model.layers]]\nwidth = 'x'\n"),
                HasSubstr("m.toml:2:1: width = 'x': expected an integer"));
    EXPECT_THAT(refusal_of_items("[[model.layers]]\nkernel = [1, 'x']\n"),
                HasSubstr("expected an integer or a list of integers"));
    EXPECT_THAT(refusal_of_items("[model.layers]\nwidth = 1\n"),
                HasSubstr("expected tables, each under its [[model.layers]]"));
    EXPECT_THAT(refusal_of_items("[model]\nlayers = [1]\n"),
                HasSubstr("expected tables, each under its [[model.layers]]"));
    EXPECT_EQ(refusal_of_items(text, {"model.layers.x.width=1"}),
              "command line: no table of [[model.layers]] is named 'x'");
    EXPECT_THAT(refusal_of_items(text, {"model.layers.a.wid=1"}),
                HasSubstr("command line: no key of [[model.layers]] named"));
    EXPECT_THAT(refusal_of_items(text, {"model.layers=1"}), HasSubstr("command line: no key named 'model.layers'"));
}

TEST(ConfigItems, ThatNothingReadsAreRefused) {
    const Config config = parse_items(text);
    config.get(dim);
    EXPECT_THAT([&] { config.refuse_unread(); }, testing::ThrowsMessage<ConfigError>(HasSubstr(
                                                     "nothing in this run reads it: [[model.layers]] (m.toml:3:1)")));
    config.items("model.layers");
    EXPECT_NO_THROW(config.refuse_unread());
}
