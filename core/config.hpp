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

using ConfigValue = std::variant<bool, std::int64_t, double, std::string, std::vector<std::string>,
                                 std::vector<std::int64_t>, std::vector<double>>;

// A key as its component declares it, in its own header:
//     inline constexpr Key<std::int64_t> training_steps{"training.steps", 1000, "number of optimizer steps"};
// T: bool, std::int64_t, double, std::string, or a std::vector of std::string, std::int64_t or double (one integer
// passes for a list of one). The fallback of a string is its text, that of a list its items with commas between them
// ("" is the empty list).
template <class T> struct Key {
    static constexpr bool is_list = std::is_same_v<T, std::vector<std::string>> ||
                                    std::is_same_v<T, std::vector<std::int64_t>> ||
                                    std::is_same_v<T, std::vector<double>>;
    static constexpr bool is_text = std::is_same_v<T, std::string> || is_list;
    static_assert(is_text || std::is_same_v<T, bool> || std::is_same_v<T, std::int64_t> || std::is_same_v<T, double>,
                  "a key is a bool, a std::int64_t, a double, a std::string or a list of strings, integers or numbers");

    std::string_view name; // "section.key"; in each table of an array, [[section.items]]: "section.items[].key"
    std::conditional_t<is_text, std::string_view, T> fallback;
    std::string_view help; // one line, opens in lower case, with the unit
};

// What the catalog holds of a key.
struct KeyInfo {
    std::string_view name;
    std::string type;     // "bool", "integer", "number", "string", "list", "integers" or "numbers"
    std::string fallback; // as TOML text
    std::string_view help;
};

template <class T> KeyInfo key_info(const Key<T>& key);

// One key with its value, as TOML text, and the place that said so.
struct ConfigEntry {
    std::string name; // of the Key; in the second table of an array "model.layers[1].type"
    std::string value;
    std::string where;
};

// What was said of a key.
struct ConfigSetting {
    KeyInfo info;
    ConfigValue value;
    std::string where = "default";
    bool set = false;
};

// One table of an array, [[model.layers]]. Copyable.
class ConfigItem {
public:
    // The value, or the key's fallback. Throws InternalError for a key that is in no catalog.
    template <class T> T get(const Key<T>& key) const { return std::get<T>(setting(key.name).value); }

    bool is_set(std::string_view key) const { return setting(key).set; }
    const std::string& where() const { return where_; } // "lenet.toml:14:1"
    std::vector<std::string_view> keys_set() const;     // whole names, in alphabetical order

    // Throws ConfigError "lenet.toml:15:1: kernel = 0: WHY", or without a key "lenet.toml:14:1: WHY".
    [[noreturn]] void refuse(std::string_view key, const std::string& why) const;
    [[noreturn]] void refuse(const std::string& why) const;

private:
    friend class Config;
    friend class ConfigReader;
    const ConfigSetting& setting(std::string_view key) const;

    std::string where_;
    std::map<std::string, ConfigSetting, std::less<>> settings_; // every key of the array
};

// Copyable. Reading marks keys as read, so one Config is not for several threads at once.
class Config {
public:
    // Reads `file` over its base files (`base = "other.toml"` at the top, relative to the file that says so), then
    // `overrides` over both: "section.key=value", the value as TOML or, where it is none, as a bare string. An array of
    // tables replaces that of a base as a whole; a key of the table whose `name` is NAME is overridden by
    // "model.layers.NAME.key=value".
    // Throws ConfigError, opening with FILE:LINE:COLUMN or "command line", for a syntax error, an unknown section or
    // key (with the nearest known one), a value of another type (an integer passes for a number), a circle of bases.
    static Config load(const std::string& file, const std::vector<std::string>& overrides,
                       const std::vector<KeyInfo>& known);
    // The same for text in memory, which has no base; `name` stands for the file in messages.
    static Config parse(std::string_view toml, const std::string& name, const std::vector<std::string>& overrides,
                        const std::vector<KeyInfo>& known);

    // The value, or the key's fallback; marks the key as read. Throws InternalError for a key that is in no catalog.
    template <class T> T get(const Key<T>& key) const { return std::get<T>(read(key.name)); }

    // The tables of an array, "model.layers", in their order; marks it as read.
    std::vector<ConfigItem> items(std::string_view array) const;

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

    // Every known key, in alphabetical order; then what the tables of arrays say.
    std::vector<ConfigEntry> entries() const;
    std::string resolved() const; // all of them as TOML, a table for each section; parses to the same again
    std::string in_use() const;   // those that have been read: a run of this text refuses none as unread
    std::string origins() const;  // all of them, one a line: key = value   # where

private:
    using Setting = ConfigSetting;
    struct Array {
        std::map<std::string, Setting, std::less<>> fallbacks; // of a table
        std::vector<ConfigItem> items;
        std::string where;
    };

    const ConfigValue& read(std::string_view key) const;
    const Setting& setting(std::string_view key) const;

    friend class ConfigReader; // fills a Config (config.cpp)

    std::string file_;
    std::map<std::string, Setting, std::less<>> settings_;
    std::map<std::string, Array, std::less<>> arrays_; // by name, "model.layers"
    mutable std::set<std::string, std::less<>> read_;  // keys and arrays
};

// A value as TOML text that parses to the same value.
std::string toml_text(const ConfigValue& value);
// The items of a list key's fallback.
std::vector<std::string> list_items(std::string_view text);
std::vector<std::int64_t> integers(std::string_view text);
std::vector<double> numbers(std::string_view text);
// The name of a value's type, as in KeyInfo::type.
std::string_view type_name(const ConfigValue& value);

template <class T> KeyInfo key_info(const Key<T>& key) {
    ConfigValue fallback;
    if constexpr (std::is_same_v<T, std::vector<std::string>>)
        fallback = list_items(key.fallback);
    else if constexpr (std::is_same_v<T, std::vector<std::int64_t>>)
        fallback = integers(key.fallback);
    else if constexpr (std::is_same_v<T, std::vector<double>>)
        fallback = numbers(key.fallback);
    else
        fallback = T(key.fallback);
    return {key.name, std::string(type_name(fallback)), toml_text(fallback), key.help};
}

} // namespace tessera
