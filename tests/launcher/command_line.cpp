// SPDX-License-Identifier: Apache-2.0
// Arguments and help texts: what is parsed, what is refused with which words, and that help fits a screen.
#include "launcher/command_line.hpp"

#include "kernels/error.hpp"
#include "launcher/commands.hpp"

#include <algorithm>
#include <gtest/gtest.h>
#include <sstream>

namespace tessera {
namespace {

const Usage usage{"cook [OPTION…] DISH [with=what …]",
                  "Cooks.\n",
                  {{"plates,p", "N", "number of plates"}, {"dry-run", "", "only think of it"}},
                  1,
                  3};

std::string refusal(const std::vector<std::string>& words) {
    try {
        const Arguments arguments(usage, words);
        arguments.integer("plates", 1, 12);
    } catch (const ConfigError& error) {
        return error.what();
    }
    return "accepted";
}

TEST(Arguments, OptionsAndWordsInAnyOrder) {
    for (const std::vector<std::string>& words :
         {std::vector<std::string>{"-p", "4", "--dry-run", "soup", "salt.amount=-1"},
          {"soup", "--plates=4", "salt.amount=-1", "--dry-run"},
          {"--dry-run", "soup", "-p4", "salt.amount=-1"}}) {
        const Arguments arguments(usage, words);
        EXPECT_EQ(arguments.integer("plates", 1, 12), 4);
        EXPECT_TRUE(arguments.has("dry-run"));
        EXPECT_EQ(arguments.words(), (std::vector<std::string>{"soup", "salt.amount=-1"}));
        EXPECT_FALSE(arguments.wants_help());
    }
    const Arguments plain(usage, {"soup"});
    EXPECT_FALSE(plain.has("dry-run"));
    EXPECT_EQ(plain.integer("plates", 1, 12), std::nullopt);
}

TEST(Arguments, Refusals) {
    EXPECT_EQ(refusal({"soup", "--plate", "3"}), "no option named '--plate'; did you mean '--plates'?");
    EXPECT_EQ(refusal({"soup", "--plates"}), "the required argument for option '--plates' is missing");
    EXPECT_EQ(refusal({"soup", "-p", "four"}), "--plates four: expected a whole number from 1 to 12");
    EXPECT_EQ(refusal({"soup", "-p", "13"}), "--plates 13: expected a whole number from 1 to 12");
    EXPECT_EQ(refusal({"soup", "-p", "3.5"}), "--plates 3.5: expected a whole number from 1 to 12");
    EXPECT_EQ(refusal({"soup", "-p", "99999999999999999999"}),
              "--plates 99999999999999999999: expected a whole number from 1 to 12");
    EXPECT_EQ(refusal({}), "found no argument; usage: tessera cook [OPTION…] DISH [with=what …]");
    EXPECT_EQ(refusal({"a", "b", "c", "d"}),
              "found arguments 'a b c d'; usage: tessera cook [OPTION…] DISH [with=what …]");
    EXPECT_NE(refusal({"soup", "-p", "1", "-p", "2"}), "accepted");
}

TEST(Arguments, HelpIsNeverRefused) {
    for (const std::vector<std::string>& words :
         {std::vector<std::string>{"--help"}, {"-h"}, {"a", "b", "c", "d", "--help"}, {"--nonsense", "-h"}})
        EXPECT_TRUE(Arguments(usage, words).wants_help());
}

TEST(Commands, AreAlphabeticalAndTheirHelpFitsAScreen) {
    const std::vector<Command> all = commands();
    for (std::size_t i = 0; i < all.size(); ++i) {
        EXPECT_TRUE(i == 0 || all[i - 1].name < all[i].name) << all[i].name;
        EXPECT_LE(all[i].summary.size(), 66u) << all[i].name;
        EXPECT_TRUE(all[i].usage.synopsis.starts_with(all[i].name)) << all[i].name;
        const std::string help = help_text(all[i].usage);
        EXPECT_LE(std::count(help.begin(), help.end(), '\n'), 40) << all[i].name;
        std::istringstream lines(help);
        for (std::string line; std::getline(lines, line);) {
            const auto follows = [](char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }; // UTF-8
            EXPECT_LE(static_cast<std::ptrdiff_t>(line.size()) - std::count_if(line.begin(), line.end(), follows), 90)
                << line;
        }
    }
}

} // namespace
} // namespace tessera
