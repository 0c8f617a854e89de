// SPDX-License-Identifier: Apache-2.0
// A few names, looked for from the first on.
#include "core/graph/attributes.hpp"

#include "kernels/error.hpp"
#include "kernels/window.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {

const Attributes::Value& Attributes::at(std::string_view name) const {
    const auto found = std::ranges::find(values_, name, &std::pair<std::string_view, Value>::first);
    if (found == values_.end()) throw InternalError(fmt::format("an op without the attribute '{}'", name));
    return found->second;
}

template <typename T> const T& Attributes::of(std::string_view name) const {
    const T* value = std::get_if<T>(&at(name));
    if (value == nullptr) throw InternalError(fmt::format("the attribute '{}' is of another type", name));
    return *value;
}

template const bool& Attributes::of(std::string_view) const;
template const std::int64_t& Attributes::of(std::string_view) const;
template const double& Attributes::of(std::string_view) const;
template const std::string_view& Attributes::of(std::string_view) const;

Window Attributes::window() const {
    const auto& n = of<std::vector<std::int64_t>>("window");
    return {{n.at(0), n.at(1), n.at(2), n.at(3), n.at(4)}, {n.at(5), n.at(6), n.at(7), n.at(8), n.at(9)}};
}

std::vector<std::int64_t> attribute_of(const Window& window) {
    std::vector<std::int64_t> numbers;
    for (const WindowDim* dim : {&window.height, &window.width})
        for (const std::int64_t number : {dim->size, dim->stride, dim->dilation, dim->before, dim->after})
            numbers.push_back(number);
    return numbers;
}

} // namespace tessera
