// SPDX-License-Identifier: Apache-2.0
// Tables [[optimizer.groups]] against the names of a graph's parameters.
#include "core/optimizers/parameter_groups.hpp"

#include <algorithm>
#include <fmt/ranges.h>

namespace tessera {
namespace {

struct Group {
    ParameterSettings settings;
    std::vector<std::string> patterns;
    bool frozen;
};

Group read_group(const ConfigItem& item, std::size_t number) {
    Group group{{.rate_factor = item.get(group_rate_factor), .group = number},
                item.get(group_parameters),
                item.get(group_freeze)};
    ParameterSettings& settings = group.settings;
    if (group.patterns.empty()) item.refuse(group_parameters.name, "says no parameters");
    if (!(settings.rate_factor >= 0 && settings.rate_factor < 1e6))
        item.refuse(group_rate_factor.name, "must be from 0 to 1e6");
    if (item.is_set(group_decay.name)) settings.weight_decay = item.get(group_decay);
    if (settings.weight_decay && !(*settings.weight_decay >= 0 && *settings.weight_decay < 1e3))
        item.refuse(group_decay.name, "must be from 0 to 1e3");
    return group;
}

} // namespace

bool fits(std::string_view pattern, std::string_view name) {
    const std::size_t star = pattern.find('*');
    if (star == std::string_view::npos) return pattern == name;
    if (!name.starts_with(pattern.substr(0, star))) return false;
    for (std::size_t taken = star; taken <= name.size(); ++taken)
        if (fits(pattern.substr(star + 1), name.substr(taken))) return true;
    return false;
}

std::vector<ParameterSettings> apply_parameter_groups(Graph& graph, const Config& config) {
    const std::vector<ConfigItem> items = config.items("optimizer.groups");
    const std::vector<ValueId> parameters = graph.trained();
    std::vector<ParameterSettings> all(parameters.size());
    for (std::size_t number = 1; number <= items.size(); ++number) {
        const ConfigItem& item = items[number - 1];
        const Group group = read_group(item, number);
        bool fits_any = false;
        for (std::size_t i = 0; i < all.size(); ++i) {
            const std::string& name = graph.value(parameters[i]).name;
            if (std::ranges::none_of(group.patterns, [&](const auto& pattern) { return fits(pattern, name); }))
                continue;
            fits_any = true;
            if (all[i].group != 0) continue;
            all[i] = group.settings;
            if (group.frozen) graph.freeze(parameters[i]);
        }
        if (!fits_any)
            item.refuse(group_parameters.name,
                        fmt::format("fits none of the {} parameters that are trained, of which the first is '{}': "
                                    "tessera plan lists them",
                                    parameters.size(), graph.value(parameters.front()).name));
    }
    std::vector<ParameterSettings> trained;
    for (std::size_t i = 0; i < all.size(); ++i)
        if (!graph.value(parameters[i]).parameter->frozen) trained.push_back(all[i]);
    if (!items.empty() && trained.empty())
        items.front().refuse("the groups freeze every parameter: nothing is left to train");
    return trained;
}

} // namespace tessera
