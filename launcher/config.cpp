// SPDX-License-Identifier: Apache-2.0
// `tessera config`: shows a config with the origin of every value, explains keys, compares two configs.
#include "core/config.hpp"

#include "core/config_catalog.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"
#include "launcher/commands.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {
namespace {

std::string section_of(std::string_view key) { return std::string(key.substr(0, key.find('.'))); }

int show(const std::vector<std::string>& words) {
    if (words.size() < 2) throw ConfigError("config show: expected a config file");
    fmt::print("{}", Config::load(words[1], {words.begin() + 2, words.end()}, known_keys()).origins());
    return 0;
}

// Every key of a section, or the one key; all of them for "".
int explain(const std::vector<std::string>& words) {
    if (words.size() > 2) throw ConfigError("config explain: expected one key or one section");
    const std::string wanted = words.size() == 2 ? words[1] : "";
    const std::vector<KeyInfo> known = known_keys();
    std::vector<std::string_view> names;
    std::string section;
    bool found = false;
    for (const KeyInfo& key : known) {
        names.push_back(key.name);
        if (!wanted.empty() && key.name != wanted && section_of(key.name) != wanted) continue;
        if (section_of(key.name) != section) {
            section = section_of(key.name);
            fmt::print("{}[{}]\n", found ? "\n" : "", section);
        }
        found = true;
        fmt::print("{}\n    {}\n    {}, default {}\n", key.name, key.help, key.type, key.fallback);
    }
    if (!found) throw ConfigError(no_such_name("key", wanted, names));
    return 0;
}

int diff(const std::vector<std::string>& words) {
    if (words.size() != 3) throw ConfigError("config diff: expected two config files");
    const std::vector<ConfigEntry> one = Config::load(words[1], {}, known_keys()).entries();
    const std::vector<ConfigEntry> two = Config::load(words[2], {}, known_keys()).entries();
    const auto of = [](const std::vector<ConfigEntry>& entries, const std::string& name) { // a table may be in one only
        const auto found = std::ranges::find(entries, name, &ConfigEntry::name);
        return found == entries.end() ? ConfigEntry{name, "nothing", "nowhere"} : *found;
    };
    std::vector<std::string> names;
    for (const std::vector<ConfigEntry>* entries : {&one, &two})
        for (const ConfigEntry& entry : *entries)
            if (std::ranges::find(names, entry.name) == names.end()) names.push_back(entry.name);
    for (const std::string& name : names)
        if (const ConfigEntry here = of(one, name), there = of(two, name); here.value != there.value)
            fmt::print("{}: {} -> {}   # {} -> {}\n", name, here.value, there.value, here.where, there.where);
    return 0;
}

int run_config(const Arguments& arguments, Process&) {
    const std::vector<std::string>& words = arguments.words();
    if (words[0] == "show") return show(words);
    if (words[0] == "explain") return explain(words);
    if (words[0] == "diff") return diff(words);
    throw ConfigError(no_such_name("config command", words[0], {"diff", "explain", "show"}));
}

} // namespace

Command config_command() {
    return {"config",
            "show, explain and compare configs",
            {"config show CONFIG [section.key=value …] | explain [KEY|SECTION] | diff A B",
             R"(show     every key with its value and where that came from: a file's line, the
         command line or the default. What it prints is a config itself.
explain  what a key, or all keys of a section, or all keys there are, mean, with
         type and default
diff     the keys whose values differ between two configs

A config is a TOML file of sections. It may open with base = "other.toml", whose
values then hold where it says nothing itself. Values on the command line come
last: section.key=value, with the value as TOML or as a bare word. A key that is
not known is refused, with the nearest one that is.

Examples
  tessera config show configs/quickstart.toml training.steps=10
  tessera config explain metrics.color
)",
             {},
             1,
             1000},
            run_config};
}

} // namespace tessera
