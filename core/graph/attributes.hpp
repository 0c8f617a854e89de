// SPDX-License-Identifier: Apache-2.0
// What an op was told when it was made, by name: for those who write it down elsewhere (core/formats/onnx).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace tessera {

struct Window;

class Attributes {
public:
    using Value = std::variant<bool, std::int64_t, double, std::string_view, std::vector<std::int64_t>>;
    Attributes() = default;
    Attributes(std::initializer_list<std::pair<std::string_view, Value>> values) : values_(values) {}

    // InternalError where there is none of this name and type.
    bool flag(std::string_view name) const { return of<bool>(name); }
    std::int64_t integer(std::string_view name) const { return of<std::int64_t>(name); }
    double number(std::string_view name) const { return of<double>(name); }
    std::string_view text(std::string_view name) const { return of<std::string_view>(name); } // of a constant
    Window window() const;                                                                    // "window"

private:
    const Value& at(std::string_view name) const;
    template <typename T> const T& of(std::string_view name) const;

    std::vector<std::pair<std::string_view, Value>> values_;
};

// A window as the value of "window".
std::vector<std::int64_t> attribute_of(const Window& window);

} // namespace tessera
