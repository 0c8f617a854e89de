// SPDX-License-Identifier: Apache-2.0
// A small JSON file whose values are asked for by name: another program's description of a model.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

namespace tessera {

// Names are paths: "rope_scaling.factor", "architectures.0". A null counts as not there.
class JsonValues {
public:
    using Value = std::variant<bool, std::int64_t, double, std::string>;

    // Throws ConfigError that opens with `where` for what is no JSON object.
    JsonValues(std::string_view text, std::string where);

    const std::string& where() const { return where_; }
    const std::map<std::string, Value, std::less<>>& all() const { return values_; }
    bool has(std::string_view name) const { return values_.contains(name); }

    // Throw ConfigError for a value of another kind, and without a fallback for none. A whole number is a number.
    std::int64_t integer(std::string_view name, std::optional<std::int64_t> fallback = {}) const;
    double number(std::string_view name, std::optional<double> fallback = {}) const;
    bool flag(std::string_view name, std::optional<bool> fallback = {}) const;
    std::string text(std::string_view name, std::optional<std::string> fallback = {}) const;

    // Throws ConfigError "gpt2/config.json: activation_function = "swish": WHY".
    [[noreturn]] void refuse(std::string_view name, const std::string& why) const;

private:
    template <class T> T get(std::string_view name, const std::optional<T>& fallback, const char* expected) const;

    std::string where_;
    std::map<std::string, Value, std::less<>> values_;
};

} // namespace tessera
