// SPDX-License-Identifier: Apache-2.0
// Values of another program's JSON by their paths, and what is said of those that do not fit.
#include "core/formats/json_values.hpp"
#include "kernels/error.hpp"

#include <functional>
#include <gtest/gtest.h>

using namespace tessera;

namespace {

std::string refusal(const std::function<void()>& work) {
    try {
        work();
        return "";
    } catch (const ConfigError& error) {
        return error.what();
    }
}

} // namespace

TEST(JsonValues, AreFoundByTheirPaths) {
    const JsonValues values(
        R"({"n": 12, "less": -3, "eps": 1e-5, "none": null, "tied": true, "name": "gpt2",
            "scaling": {"factor": 8, "kind": "llama3"}, "list": ["a", {"b": 2}, null, 4]})",
        "config.json");
    EXPECT_EQ(values.integer("n"), 12);
    EXPECT_EQ(values.integer("less"), -3);
    EXPECT_EQ(values.number("n"), 12.0);
    EXPECT_EQ(values.number("eps"), 1e-5);
    EXPECT_TRUE(values.flag("tied"));
    EXPECT_EQ(values.text("name"), "gpt2");
    EXPECT_EQ(values.number("scaling.factor"), 8);
    EXPECT_EQ(values.text("scaling.kind"), "llama3");
    EXPECT_EQ(values.text("list.0"), "a");
    EXPECT_EQ(values.integer("list.1.b"), 2);
    EXPECT_EQ(values.integer("list.3"), 4);
    EXPECT_FALSE(values.has("none") || values.has("list.2") || values.has("scaling"));
    EXPECT_EQ(values.integer("none", 7), 7);
    EXPECT_EQ(values.all().size(), 10u);
}

TEST(JsonValues, WhatDoesNotFitIsNamed) {
    const JsonValues values(R"({"n": 1.5, "name": "a\"b", "huge": 18446744073709551615})", "gpt2/config.json");
    EXPECT_EQ(refusal([&] { values.integer("n"); }), "gpt2/config.json: n = 1.5: expected a whole number");
    EXPECT_EQ(refusal([&] { values.integer("m"); }), "gpt2/config.json: 'm' is missing: a whole number");
    EXPECT_EQ(refusal([&] { values.flag("name", true); }), "gpt2/config.json: name = \"a\\\"b\": expected true or false");
    EXPECT_EQ(refusal([&] { values.integer("huge"); }).substr(0, 24), "gpt2/config.json: huge =");
    EXPECT_EQ(refusal([] { JsonValues(R"({"a": 1, "a": 2})", "f"); }), "f: 'a' stands there twice");
    EXPECT_EQ(refusal([] { JsonValues("[1]", "f"); }), "f: a list, expected an object");
    EXPECT_EQ(refusal([] { JsonValues("3", "f"); }), "f: a single value, expected an object");
    EXPECT_EQ(refusal([] { JsonValues("{", "f"); }).substr(0, 23), "f: the text is not JSON");
}
