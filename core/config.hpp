// SPDX-License-Identifier: Apache-2.0
// A run's configuration: typed keys read from a TOML file, its base files and the command line, each value with the
// place it came from. It knows no key itself: each component declares the keys it reads, config_catalog lists them.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace tessera {

using ConfigValue = std::variant<bool, std::int64_t, double, std::string, std::vector<std::string>>;

// A key as its component declares it, in its own header:
//     inline constexpr Key<std::int64_t> training_steps{"training.steps", 1000, "number of optimizer steps"};
// T: bool, std::int64_t, double, std::string or std::vector<std::string>. The fallback of a string is its text, that
// of a list its items with commas between them ("" is the empty list).
template <class T> struct Key {
    static constexpr bool is_text = std::is_same_v<T, std::string> || std::is_same_v<T, std::vector<std::string>>;
    static_assert(is_text || std::is_same_v<T, bool> || std::is_same_v<T, std::int64_t> || std::is_same_v<T, double>,
                  "a key is a bool, a std::int64_t, a double, a std::string or a std::vector<std::string>");

    std::string_view name; // "section.key"
    std::conditional_t<is_text, std::string_view, T> fallback;
    std::string_view help; // one line, opens in lower case, with the unit
};

// What the catalog holds of a key.
struct KeyInfo {
    std::string_view name;
    std::string type;     // "bool", "integer", "number", "string" or "list"
    std::string fallback; // as TOML text
    std::string_view help;
};

template <class T> KeyInfo key_info(const Key<T>& key);

// One key with its value, as TOML text, and the place that said so.
struct ConfigEntry {
    std::string_view name; // of the Key: valid for as long as the program runs
    std::string value;
    std::string where;
};

// Copyable. Reading marks keys as read, so one Config is not for several threads at once.
class Config {
public:
    // Reads `file` over its base files (`base = "other.toml"` at the top, relative to the file that says so), then
    // `overrides` over both: "section.key=value", the value as TOML or, where it is none, as a bare string.
    // Throws ConfigError, opening with FILE:LINE:COLUMN or "command line", for a syntax error, an unknown section or
    // key (with the nearest known one), a value of another type (an integer passes for a number), a circle of bases.
    static Config load(const std::string& file, const std::vector<std::string>& overrides,
                       const std::vector<KeyInfo>& known);
    // The same for text in memory, which has no base; `name` stands for the file in messages.
    static Config parse(std::string_view toml, const std::string& name, const std::vector<std::string>& overrides,
                        const std::vector<KeyInfo>& known);

    // The value, or the key's fallback; marks the key as read. Throws InternalError for a key that is in no catalog.
    template <class T> T get(const Key<T>& key) const { return std::get<T>(read(key.name)); }

    bool is_set(std::string_view key) const;       // said by a file or the command line
    std::string where(std::string_view key) const; // "gpt.toml:14:3", "command line", "default"
    const std::string& file() const { return file_; }

    // Puts what was worked out in the place of a default ("": the file's name), so that resolved() says it.
    void settle(std::string_view key, ConfigValue value);

    // Throws ConfigError "gpt.toml:14:3: training.steps = -5: WHY" for a value that its component cannot accept.
    [[noreturn]] void refuse(std::string_view key, const std::string& why) const;
    // Throws ConfigError that names every key that was set but that no component has read.
    // `said_by`: look only at keys from there ("command line").
    void refuse_unread(std::string_view said_by = {}) const;

    std::vector<ConfigEntry> entries() const; // every known key, in alphabetical order
    std::string resolved() const;             // all of them as TOML, a table for each section; parses to the same again
    std::string in_use() const;               // those that have been read: a run of this text refuses none as unread
    std::string origins() const;              // all of them, one a line: key = value   # where

private:
    struct Setting {
        KeyInfo info;
        ConfigValue value;
        std::string where = "default";
        bool set = false;
    };

    const ConfigValue& read(std::string_view key) const;
    const Setting& setting(std::string_view key) const;

    friend class ConfigReader; // fills a Config (config.cpp)

    std::string file_;
    std::map<std::string, Setting, std::less<>> settings_;
    mutable std::set<std::string, std::less<>> read_;
};

// A value as TOML text that parses to the same value.
std::string toml_text(const ConfigValue& value);
// The items of a list key's fallback.
std::vector<std::string> list_items(std::string_view text);
// The name of a value's type, as in KeyInfo::type.
std::string_view type_name(const ConfigValue& value);

template <class T> KeyInfo key_info(const Key<T>& key) {
    ConfigValue fallback;
    if constexpr (std::is_same_v<T, std::vector<std::string>>)
        fallback = list_items(key.fallback);
    else
        fallback = T(key.fallback);
    return {key.name, std::string(type_name(fallback)), toml_text(fallback), key.help};
}

} // namespace tessera
