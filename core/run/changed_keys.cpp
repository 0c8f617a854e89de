// SPDX-License-Identifier: Apache-2.0
// Compares two configs as text, which the version that wrote one of them need not have known.
#include "core/run/changed_keys.hpp"

#include <algorithm>
#include <map>

namespace tessera {
namespace {

// "section.key" to its value; the tables of an array are numbered: "model.layers[1].type".
std::map<std::string, std::string> settings_of(std::string_view text) {
    std::map<std::string, std::string> settings;
    std::map<std::string, int> tables;
    std::string section;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        const std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        const std::size_t equals = line.find(" = ");
        if (line.starts_with("[[") && line.ends_with("]]")) {
            const std::string name(line.substr(2, line.size() - 4));
            section = name + "[" + std::to_string(tables[name]++) + "].";
        } else if (line.starts_with("[") && line.ends_with("]")) {
            section = std::string(line.substr(1, line.size() - 2)) + ".";
        } else if (equals != std::string_view::npos) {
            settings[section + std::string(line.substr(0, equals))] = line.substr(equals + 3);
        }
    }
    return settings;
}

} // namespace

std::vector<ChangedKey> changed_keys(std::string_view before, std::string_view now) {
    std::map<std::string, std::string> old_settings = settings_of(before), settings = settings_of(now);
    for (const auto& [name, value] : old_settings) // a table has no more keys than were said
        if (name.find('[') != std::string::npos) settings.try_emplace(name, "(not said)");
    std::vector<ChangedKey> changed;
    for (const auto& [name, value] : settings) {
        if (name.find('[') != std::string::npos) old_settings.try_emplace(name, "(not said)");
        const auto found = old_settings.find(name);
        if (found != old_settings.end() && found->second != value) changed.push_back({name, found->second, value});
    }
    return changed;
}

bool changes_the_meaning(std::string_view key) {
    if (key.starts_with("data.") && (key.ends_with("files") || key.ends_with("statistics"))) return false; // a path
    if (key == "data.loader_threads" || key == "data.prefetch") return false;
    if (key == "model.init_ema" || key == "model.init_from" || key == "model.init_rename" || key == "model.init_skip")
        return false; // of the first step
    return key.starts_with("model.") || key.starts_with("lora.") || key.starts_with("data.") ||
           key == "training.seed" || key == "training.seq_len";
}

} // namespace tessera
