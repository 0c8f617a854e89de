// SPDX-License-Identifier: Apache-2.0
// The tables of an array as a component reads them.
#include "core/config.hpp"
#include "kernels/error.hpp"

#include <fmt/format.h>

namespace tessera {

const ConfigSetting& ConfigItem::setting(std::string_view key) const {
    const auto found = settings_.find(key);
    if (found == settings_.end()) throw InternalError(fmt::format("config key '{}' is in no catalog", key));
    return found->second;
}

std::vector<std::string_view> ConfigItem::keys_set() const {
    std::vector<std::string_view> keys;
    for (const auto& [key, setting] : settings_)
        if (setting.set) keys.push_back(setting.info.name);
    return keys;
}

void ConfigItem::refuse(std::string_view key, const std::string& why) const {
    const ConfigSetting& found = setting(key);
    const std::string_view name = found.info.name.substr(found.info.name.rfind('.') + 1);
    throw ConfigError(
        fmt::format("{}: {} = {}: {}", found.set ? found.where : where_, name, toml_text(found.value), why));
}

void ConfigItem::refuse(const std::string& why) const { throw ConfigError(fmt::format("{}: {}", where_, why)); }

} // namespace tessera
