// SPDX-License-Identifier: Apache-2.0
// The one list of strategies. What stands here works and is tested.
#include "parallel/strategies/catalog.hpp"

#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"
#include "parallel/strategies/data_parallel.hpp"

#include <array>

namespace tessera {
namespace {

struct Entry {
    std::string_view name;
    std::unique_ptr<Strategy> (*make)(std::string_view axis);
};

template <class T> std::unique_ptr<Strategy> make(std::string_view axis) { return std::make_unique<T>(axis); }

constexpr std::array catalog = {
    Entry{"data", make<DataParallel>},
};

} // namespace

std::vector<std::string_view> strategy_names() {
    std::vector<std::string_view> names;
    for (const Entry& entry : catalog)
        names.push_back(entry.name);
    return names;
}

std::unique_ptr<Strategy> make_strategy(std::string_view name, std::string_view axis) {
    for (const Entry& entry : catalog)
        if (entry.name == name) return entry.make(axis);
    throw ConfigError(no_such_name("strategy", name, strategy_names()));
}

} // namespace tessera
