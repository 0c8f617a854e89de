// SPDX-License-Identifier: Apache-2.0
// What a subcommand accepts on its line, the help text made of it, and the words a person typed, parsed by it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace tessera {

struct Option {
    std::string names;    // "ranks,n": long, then short where there is one
    std::string argument; // "N"; empty for a switch
    std::string help;
    bool repeats = false; // may be said several times
};

struct Usage {
    std::string synopsis;        // "launch [OPTION…] CONFIG [section.key=value …]", after the program's name
    std::string text;            // what it does; lines of at most 80 columns
    std::vector<Option> options; // without --help, which all have
    std::size_t least = 0;       // words that are no options: at least,
    std::size_t most = 0;        // and at most
};

// Fits a screen.
std::string help_text(const Usage& usage);

class Arguments {
public:
    // Throws ConfigError for an unknown option (with the nearest), a missing argument, or a wrong number of words. With
    // --help among the words nothing is refused.
    Arguments(const Usage& usage, const std::vector<std::string>& words);

    bool wants_help() const { return wants_help_; }
    bool has(const std::string& option) const { return options_.contains(option); } // by its long name
    std::optional<std::string> text(const std::string& option) const;
    std::vector<std::string> texts(const std::string& option) const; // of one that repeats, in the order of the line
    // Throws ConfigError unless the argument is a whole number from `least` to `most`.
    std::optional<std::int64_t> integer(const std::string& option, std::int64_t least, std::int64_t most) const;
    const std::vector<std::string>& words() const { return words_; } // those that are no options
    const std::vector<std::string>& all() const { return all_; }     // as they were typed

private:
    bool wants_help_ = false;
    std::map<std::string, std::vector<std::string>> options_;
    std::vector<std::string> words_, all_;
};

// A whole number from `least` to `most`, or ConfigError opening with `what`.
std::int64_t parse_integer(const std::string& what, const std::string& text, std::int64_t least, std::int64_t most);

// "rank" or "ranks", with the number before it.
std::string counted(std::int64_t count, const std::string& noun);

} // namespace tessera
