// SPDX-License-Identifier: Apache-2.0
// Reads TOML into a Config: bases first, then the file, then the command line. The only file that includes toml++.
#include "core/config.hpp"

#include "core/toml_depth.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fstream>
#include <optional>
#include <sstream>
#include <toml++/toml.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view command_line = "command line";
constexpr std::size_t most_config_bytes = 4 << 20; // of a file: lists of many thousand files fit

std::string place(const std::string& file, const toml::source_region& source) {
    return fmt::format("{}:{}:{}", file, source.begin.line, source.begin.column);
}

// One name for one file, to recognise a circle; what has no path of its own (a pipe) keeps the name it was given.
fs::path identity(const fs::path& path) {
    std::error_code error;
    const fs::path whole = fs::weakly_canonical(path, error);
    return error ? path : whole;
}

std::string read_file(const fs::path& path, const std::string& asked_by) {
    std::error_code error;
    if (fs::is_directory(path, error))
        throw ConfigError(fmt::format("{}cannot read {}: it is a folder", asked_by, path.string()));
    errno = 0;
    std::ifstream file(path, std::ios::binary);
    std::string text;
    std::array<char, 4096> piece{};
    while (file.read(piece.data(), piece.size()) || file.gcount() > 0) { // a device may never end
        text.append(piece.data(), static_cast<std::size_t>(file.gcount()));
        if (text.size() > most_config_bytes)
            throw ConfigError(
                fmt::format("{}{} has over {} bytes, which no config has", asked_by, path.string(), most_config_bytes));
    }
    if (!file.eof() || file.bad())
        throw ConfigError(fmt::format("{}cannot read {}: {}", asked_by, path.string(), std::strerror(errno)));
    return text;
}

// toml++ reports by exception; its words become one sentence of ours.
toml::table parse_toml(std::string_view text, const std::string& name) {
    if (const std::optional<std::int64_t> line = line_of_deep_key(text))
        throw ConfigError(fmt::format("{}:{}: a name of more than {} parts", name, *line, most_key_parts));
    try {
        return toml::parse(text, name);
    } catch (const toml::parse_error& error) {
        std::string why(error.description());
        std::replace(why.begin(), why.end(), '\n', ' ');
        throw ConfigError(fmt::format("{}: {}", place(name, error.source()), why));
    }
}

// A bare value, as on a command line; nothing when it is not TOML. A line end could smuggle in a second key.
std::optional<toml::table> parse_value(std::string_view text) {
    if (text.find_first_of("\r\n") != std::string_view::npos || line_of_deep_key(text)) return std::nullopt;
    try {
        return toml::parse(fmt::format("value = {}", text));
    } catch (const toml::parse_error&) {
        return std::nullopt;
    }
}

std::string node_text(const toml::node& node) {
    if (node.is_table()) return "{...}";
    std::ostringstream text;
    node.visit([&](const auto& value) { text << value; });
    std::string result = text.str();
    std::replace(result.begin(), result.end(), '\n', ' ');
    return result;
}

std::string found_type(const toml::node& node) {
    switch (node.type()) {
    case toml::node_type::table:
        return "a section";
    case toml::node_type::array:
        return "a list";
    case toml::node_type::string:
        return "a string";
    case toml::node_type::integer:
        return "an integer";
    case toml::node_type::floating_point:
        return "a number with a fraction";
    case toml::node_type::boolean:
        return "a bool";
    default:
        return "a date or time";
    }
}

std::string expected_type(std::string_view type) {
    if (type == "bool") return "true or false";
    if (type == "integer") return "an integer";
    if (type == "list") return "a list of strings, [\"one\", \"two\"]";
    if (type == "integers") return "an integer or a list of integers, [3, 5]";
    if (type == "numbers") return "a list of numbers, [0.5, 1.0]";
    return fmt::format("a {}", type);
}

std::optional<ConfigValue> list_of_strings(const toml::array& array) {
    std::vector<std::string> items;
    for (const toml::node& item : array) {
        const auto* text = item.as_string();
        if (text == nullptr) return std::nullopt;
        items.push_back(text->get());
    }
    return items;
}

std::optional<ConfigValue> list_of_integers(const toml::node& node) {
    std::vector<std::int64_t> items;
    if (node.is_integer()) return std::vector<std::int64_t>{node.as_integer()->get()};
    if (!node.is_array()) return std::nullopt;
    for (const toml::node& item : *node.as_array()) {
        if (!item.is_integer()) return std::nullopt;
        items.push_back(item.as_integer()->get());
    }
    return items;
}

std::optional<ConfigValue> list_of_numbers(const toml::array& array) {
    std::vector<double> items;
    for (const toml::node& item : array) {
        const std::optional<double> number = item.is_number() ? item.value<double>() : std::nullopt;
        if (!number) return std::nullopt;
        items.push_back(*number);
    }
    return items;
}

// The node as a value of the wanted type (see KeyInfo::type); nothing when it is of another.
std::optional<ConfigValue> convert(const toml::node& node, std::string_view type) {
    if (type == "bool" && node.is_boolean()) return node.as_boolean()->get();
    if (type == "integer" && node.is_integer()) return node.as_integer()->get();
    if (type == "number" && node.is_floating_point()) return node.as_floating_point()->get();
    if (type == "number" && node.is_integer()) return static_cast<double>(node.as_integer()->get());
    if (type == "string" && node.is_string()) return node.as_string()->get();
    if (type == "list" && node.is_array()) return list_of_strings(*node.as_array());
    if (type == "integers") return list_of_integers(node);
    if (type == "numbers" && node.is_array()) return list_of_numbers(*node.as_array());
    return std::nullopt;
}

} // namespace

// Fills a Config, source by source; a later one overrules an earlier one.
class ConfigReader {
public:
    ConfigReader(std::string file, const std::vector<KeyInfo>& known) {
        config_.file_ = std::move(file);
        for (const KeyInfo& info : known) {
            const toml::table fallback = parse_toml("value = " + info.fallback, std::string(info.name));
            auto value = convert(*fallback.get("value"), info.type);
            if (!value || info.name.find('.') == std::string_view::npos)
                throw InternalError(fmt::format("config key '{}' is not well declared", info.name));
            const std::size_t in_array = info.name.find("[].");
            auto& settings = in_array == std::string_view::npos
                                 ? config_.settings_
                                 : config_.arrays_[std::string(info.name.substr(0, in_array))].fallbacks;
            if (!settings.try_emplace(std::string(info.name), ConfigSetting{info, *value}).second)
                throw InternalError(fmt::format("two config keys are named '{}'", info.name));
        }
    }

    // `text` is the file's; `chain` the files whose base it is, outermost first.
    void add_file(const fs::path& path, std::string_view text, std::vector<fs::path> chain) {
        const toml::table table = parse_toml(text, path.string());
        chain.push_back(identity(path));
        if (const toml::node* base = table.get("base")) add_base(path, *base, chain);
        add_table(path.string(), table, "");
    }

    // A text that came with a checkpoint or a file of weights leads to no other file.
    void add_text(const std::string& name, std::string_view text) {
        const toml::table table = parse_toml(text, name);
        if (const toml::node* base = table.get("base"))
            throw ConfigError(fmt::format("{}: only a config that is a file has a base", place(name, base->source())));
        add_table(name, table, "");
    }

    void add_override(const std::string& text) {
        const std::size_t equals = text.find('=');
        if (equals == std::string::npos || equals == 0)
            throw ConfigError(fmt::format("{}: '{}' is not of the form section.key=value", command_line, text));
        const std::string name = text.substr(0, equals);
        const std::string value = text.substr(equals + 1);
        Config::Setting* of_item = find_in_items(name);
        Config::Setting& setting = of_item != nullptr ? *of_item : find(name, std::string(command_line));
        const std::optional<toml::table> parsed = parse_value(value);
        const toml::node* node = parsed ? parsed->get("value") : nullptr;
        if (setting.info.type == "string" && (node == nullptr || !node->is_string())) {
            put(setting, value, std::string(command_line));
        } else if (node != nullptr) {
            put(setting, name, *node, std::string(command_line));
        } else {
            put(setting, name, toml::value<std::string>(value), std::string(command_line));
        }
    }

    Config result() && { return std::move(config_); }

private:
    void add_base(const fs::path& path, const toml::node& base, const std::vector<fs::path>& chain) {
        const std::string where = place(path.string(), base.source());
        if (!base.is_string())
            throw ConfigError(fmt::format("{}: base = {}: expected the name of a file, found {}", where,
                                          node_text(base), found_type(base)));
        const std::string said = fmt::format("{}: base = {}: ", where, toml_text(base.as_string()->get()));
        const fs::path other = path.parent_path() / base.as_string()->get();
        const fs::path whole = identity(other);
        if (std::find(chain.begin(), chain.end(), whole) != chain.end()) {
            std::string circle;
            for (const fs::path& file : chain)
                circle += file.filename().string() + " -> ";
            throw ConfigError(
                fmt::format("{}the bases run in a circle: {}{}", said, circle, whole.filename().string()));
        }
        add_file(other, read_file(other, said), chain);
    }

    void add_table(const std::string& file, const toml::table& table, const std::string& prefix) {
        for (const auto& [key, node] : table) {
            const std::string name = prefix + std::string(key.str());
            if (name == "base") continue;
            const std::string where = place(file, key.source());
            if (const auto array = config_.arrays_.find(name); array != config_.arrays_.end())
                put_array(file, array->first, node, array->second);
            else if (node.is_table() && is_section(name))
                add_table(file, *node.as_table(), name + '.');
            else if (node.is_table() && prefix.empty())
                throw ConfigError(fmt::format("{}: {}", where, no_such_name("section", name, sections())));
            else
                put(find(name, where), name, node, where);
        }
    }

    // In place of what a base said.
    void put_array(const std::string& file, const std::string& name, const toml::node& node, Config::Array& array) {
        array.where = place(file, node.source());
        array.items.clear();
        if (!node.is_array())
            throw ConfigError(fmt::format("{}: {}: expected tables, each under its [[{}]], found {}", array.where, name,
                                          name, found_type(node)));
        for (const toml::node& table : *node.as_array()) {
            const std::string where = place(file, table.source());
            if (!table.is_table())
                throw ConfigError(fmt::format("{}: {}: expected tables, each under its [[{}]], found {}", where, name,
                                              name, found_type(table)));
            ConfigItem item;
            item.where_ = where;
            item.settings_ = array.fallbacks;
            for (const auto& [key, value] : *table.as_table()) {
                const std::string said(key.str()), at = place(file, key.source());
                put(find_in(item, name, said, at), said, value, at);
            }
            array.items.push_back(std::move(item));
        }
    }

    static Config::Setting& find_in(ConfigItem& item, const std::string& array, const std::string& key,
                                    const std::string& where) {
        const auto found = item.settings_.find(fmt::format("{}[].{}", array, key));
        if (found != item.settings_.end()) return found->second;
        std::vector<std::string_view> names;
        for (const auto& [known, setting] : item.settings_)
            names.push_back(std::string_view(known).substr(array.size() + 3));
        throw ConfigError(fmt::format("{}: {}", where, no_such_name(fmt::format("key of [[{}]]", array), key, names)));
    }

    // Of "model.layers.NAME.key", where a table has the name; null where the words are of another form.
    Config::Setting* find_in_items(const std::string& words) {
        for (auto& [name, array] : config_.arrays_) {
            if (!words.starts_with(name + '.')) continue;
            const std::size_t dot = words.rfind('.');
            const std::string of = words.substr(name.size() + 1, std::max(dot, name.size() + 1) - name.size() - 1);
            for (ConfigItem& item : array.items) {
                const auto label = item.settings_.find(name + "[].name");
                if (label != item.settings_.end() && label->second.value == ConfigValue(of))
                    return &find_in(item, name, words.substr(dot + 1), std::string(command_line));
            }
            throw ConfigError(fmt::format("{}: no table of [[{}]] is named '{}'", command_line, name, of));
        }
        return nullptr;
    }

    bool is_section(const std::string& name) const {
        const auto next = config_.settings_.lower_bound(name + '.');
        return next != config_.settings_.end() && next->first.starts_with(name + '.');
    }

    std::vector<std::string_view> sections() const {
        std::vector<std::string_view> result;
        for (const auto& [name, setting] : config_.settings_) {
            const std::string_view section = std::string_view(name).substr(0, name.find('.'));
            if (result.empty() || result.back() != section) result.push_back(section);
        }
        return result;
    }

    Config::Setting& find(const std::string& name, const std::string& where) {
        const auto found = config_.settings_.find(name);
        if (found != config_.settings_.end()) return found->second;
        // A key without its section, or in the wrong one, is nearest to the key of the same name elsewhere.
        std::vector<std::string_view> names;
        const std::string last = name.substr(name.rfind('.') + 1);
        for (const auto& [known, setting] : config_.settings_) {
            if (std::string_view(known).substr(known.find('.') + 1) == last)
                throw ConfigError(fmt::format("{}: no key named '{}'; did you mean '{}'?", where, name, known));
            names.push_back(known);
        }
        const std::string nearest = nearest_name(name, names);
        throw ConfigError(
            nearest.empty() ? fmt::format("{}: no key named '{}'; `tessera config explain` lists them all", where, name)
                            : fmt::format("{}: no key named '{}'; did you mean '{}'?", where, name, nearest));
    }

    void put(Config::Setting& setting, const std::string& name, const toml::node& node, const std::string& where) {
        auto value = convert(node, setting.info.type);
        if (!value)
            throw ConfigError(fmt::format("{}: {} = {}: expected {}, found {}", where, name, node_text(node),
                                          expected_type(setting.info.type), found_type(node)));
        put(setting, std::move(*value), where);
    }

    static void put(Config::Setting& setting, ConfigValue value, const std::string& where) {
        setting.value = std::move(value);
        setting.where = where;
        setting.set = true;
    }

    Config config_;
};

Config Config::load(const std::string& file, const std::vector<std::string>& overrides,
                    const std::vector<KeyInfo>& known) {
    ConfigReader reader(file, known);
    reader.add_file(file, read_file(file, ""), {});
    for (const std::string& text : overrides)
        reader.add_override(text);
    return std::move(reader).result();
}

Config Config::parse(std::string_view toml, const std::string& name, const std::vector<std::string>& overrides,
                     const std::vector<KeyInfo>& known) {
    ConfigReader reader(name, known);
    reader.add_text(name, toml);
    for (const std::string& text : overrides)
        reader.add_override(text);
    return std::move(reader).result();
}

const Config::Setting& Config::setting(std::string_view key) const {
    const auto found = settings_.find(key);
    if (found == settings_.end()) throw InternalError(fmt::format("config key '{}' is in no catalog", key));
    return found->second;
}

const ConfigValue& Config::read(std::string_view key) const {
    const Setting& found = setting(key);
    read_.emplace(key);
    return found.value;
}

std::vector<ConfigItem> Config::items(std::string_view array) const {
    const auto found = arrays_.find(array);
    if (found == arrays_.end()) throw InternalError(fmt::format("config array '{}' is in no catalog", array));
    read_.emplace(array);
    return found->second.items;
}

bool Config::is_set(std::string_view key) const { return setting(key).set; }

std::string Config::where(std::string_view key) const { return setting(key).where; }

void Config::settle(std::string_view key, ConfigValue value) {
    Setting& found = settings_.find(setting(key).info.name)->second;
    if (value.index() != found.value.index())
        throw InternalError(fmt::format("config key '{}' is no {}", key, type_name(value)));
    found.value = std::move(value);
}

void Config::refuse(std::string_view key, const std::string& why) const {
    const Setting& found = setting(key);
    throw ConfigError(fmt::format("{}: {} = {}: {}", found.where, key, toml_text(found.value), why));
}

void Config::refuse_unread(std::string_view said_by) const {
    std::vector<std::string> unread;
    for (const auto& [name, setting] : settings_)
        if (setting.set && !read_.contains(name) && (said_by.empty() || setting.where == said_by))
            unread.push_back(fmt::format("{} ({})", name, setting.where));
    for (const auto& [name, array] : arrays_)
        if (!array.items.empty() && !read_.contains(name) && said_by.empty())
            unread.push_back(fmt::format("[[{}]] ({})", name, array.where));
    if (unread.empty()) return;
    throw ConfigError(fmt::format("{} set, but nothing in this run reads {}: {}",
                                  unread.size() == 1 ? "this key is" : "these keys are",
                                  unread.size() == 1 ? "it" : "them", fmt::join(unread, ", ")));
}

} // namespace tessera
