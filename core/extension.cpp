// SPDX-License-Identifier: Apache-2.0
#include "core/extension.hpp"

#include "core/config_catalog.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <iterator>

namespace tessera {
namespace {

Extension& added() {
    static Extension all;
    return all;
}

template <class Item, class Known>
void append(std::string_view what, std::vector<Item>& items, std::vector<Item>& more, const Known& is_known) {
    for (Item& item : more) {
        const bool twice = std::ranges::find(items, item.name, &Item::name) != items.end();
        if (twice || is_known(item.name))
            throw InternalError(fmt::format("there is a {} '{}' already", what, item.name));
        items.push_back(std::move(item));
    }
}

} // namespace

void extend(Extension extension) {
    Extension& all = added();
    const std::vector<KeyInfo> known = known_keys();
    const auto is_key = [&](std::string_view name) {
        return std::ranges::find(known, name, &KeyInfo::name) != known.end();
    };
    const auto is_layer = [](std::string_view name) {
        return std::ranges::find(layers::layer_catalog(), name, &layers::LayerType::name) !=
               layers::layer_catalog().end();
    };
    const auto is_in = [](const std::vector<std::string_view>& names) {
        return [names](std::string_view name) { return std::ranges::find(names, name) != names.end(); };
    };
    append("key", all.keys, extension.keys, is_key);
    append("layer type", all.layers, extension.layers, is_layer);
    append("optimizer", all.optimizers, extension.optimizers, is_in(optimizer_names()));
    append("reader", all.readers, extension.readers, is_in(reader_names()));
}

const Extension& extension() { return added(); }

} // namespace tessera
