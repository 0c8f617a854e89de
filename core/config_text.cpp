// SPDX-License-Identifier: Apache-2.0
// Config values as TOML text, and the views of a whole Config that are made of it. Reads no file.
#include "core/config.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace tessera {
namespace {

std::string in_quotes(std::string_view text) {
    std::string result = "\"";
    for (const char character : text) {
        const auto byte = static_cast<unsigned char>(character);
        if (character == '"' || character == '\\')
            result += {'\\', character};
        else if (character == '\n')
            result += "\\n";
        else if (character == '\t')
            result += "\\t";
        else if (byte < 0x20 || byte == 0x7f)
            result += fmt::format("\\u{:04X}", byte);
        else
            result += character;
    }
    return result + '"';
}

// The shortest digits that read back to the same double; always recognisable as a number and not an integer.
std::string number_text(double value) {
    const std::string digits = fmt::format("{}", value);
    const bool whole = digits.find_first_not_of("-0123456789") == std::string::npos;
    return whole ? digits + ".0" : digits;
}

struct Text {
    std::string operator()(bool value) const { return value ? "true" : "false"; }
    std::string operator()(std::int64_t value) const { return std::to_string(value); }
    std::string operator()(double value) const { return number_text(value); }
    std::string operator()(const std::string& value) const { return in_quotes(value); }
    std::string operator()(const std::vector<std::string>& items) const {
        std::string result = "[";
        for (const std::string& item : items)
            result += (result.size() > 1 ? ", " : "") + in_quotes(item);
        return result + ']';
    }
    std::string operator()(const std::vector<std::int64_t>& items) const {
        return fmt::format("[{}]", fmt::join(items, ", "));
    }
    std::string operator()(const std::vector<double>& items) const {
        std::vector<std::string> texts;
        for (const double item : items)
            texts.push_back(number_text(item));
        return fmt::format("[{}]", fmt::join(texts, ", "));
    }
};

// A table for each section, and one for each of an array.
std::string tables_of(const std::vector<ConfigEntry>& entries) {
    std::string result;
    std::string_view table;
    for (const ConfigEntry& entry : entries) {
        const std::string_view name = entry.name;
        const std::size_t dot = name.find("].") == std::string_view::npos ? name.find('.') : name.rfind('.');
        if (name.substr(0, dot) != table) {
            table = name.substr(0, dot);
            const std::size_t number = table.find('[');
            const bool of_array = number != std::string_view::npos;
            result += fmt::format(fmt::runtime(of_array ? "{}[[{}]]\n" : "{}[{}]\n"), result.empty() ? "" : "\n",
                                  table.substr(0, number));
        }
        result += fmt::format("{} = {}\n", name.substr(dot + 1), entry.value);
    }
    return result;
}

} // namespace

std::string toml_text(const ConfigValue& value) { return std::visit(Text{}, value); }

std::string_view type_name(const ConfigValue& value) {
    static constexpr std::string_view names[] = {"bool", "integer", "number", "string", "list", "integers", "numbers"};
    return names[value.index()];
}

std::vector<std::string> list_items(std::string_view text) {
    std::vector<std::string> items;
    while (!text.empty()) {
        const std::size_t comma = std::min(text.find(','), text.size());
        items.emplace_back(text.substr(0, comma));
        text.remove_prefix(std::min(comma + 1, text.size()));
    }
    return items;
}

std::vector<std::int64_t> integers(std::string_view text) {
    std::vector<std::int64_t> numbers;
    for (const std::string& item : list_items(text))
        numbers.push_back(std::stoll(item));
    return numbers;
}

std::vector<double> numbers(std::string_view text) {
    std::vector<double> found;
    for (const std::string& item : list_items(text))
        found.push_back(std::stod(item));
    return found;
}

std::vector<ConfigEntry> Config::entries() const {
    std::vector<ConfigEntry> result;
    result.reserve(settings_.size());
    for (const auto& [key, setting] : settings_)
        result.push_back({key, toml_text(setting.value), setting.where});
    for (const auto& [name, array] : arrays_)
        for (std::size_t i = 0; i < array.items.size(); ++i)
            for (const auto& [key, setting] : array.items[i].settings_)
                if (setting.set)
                    result.push_back({fmt::format("{}[{}].{}", name, i, key.substr(name.size() + 3)),
                                      toml_text(setting.value), setting.where});
    return result;
}

std::string Config::resolved() const { return tables_of(entries()); }

std::string Config::in_use() const {
    std::vector<ConfigEntry> used = entries();
    std::erase_if(
        used, [this](const ConfigEntry& entry) { return !read_.contains(entry.name.substr(0, entry.name.find('['))); });
    return tables_of(used);
}

std::string Config::origins() const {
    const std::vector<ConfigEntry> all = entries();
    std::size_t width = 0;
    for (const ConfigEntry& entry : all)
        width = std::max(width, std::min<std::size_t>(entry.name.size() + 3 + entry.value.size(), 60));
    std::string result;
    for (const ConfigEntry& entry : all)
        result += fmt::format("{:<{}}   # {}\n", fmt::format("{} = {}", entry.name, entry.value), width, entry.where);
    return result;
}

} // namespace tessera
