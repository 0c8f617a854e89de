// SPDX-License-Identifier: Apache-2.0
// Values by path, and what is said of those that do not fit.
#include "core/formats/json_values.hpp"

#include "core/json.hpp"
#include "kernels/error.hpp"

#include <fmt/format.h>
#include <limits>
#include <vector>

namespace tessera {
namespace {

using Values = std::map<std::string, JsonValues::Value, std::less<>>;

class ValueReader final : public JsonReader {
public:
    ValueReader(const std::string& where, Values& values) : where_(where), values_(values) {}

    void begin_object() override { levels_.push_back({next_name(), -1}); }
    void key(std::string_view name) override { levels_.back().key = name; }
    void end_object() override { levels_.pop_back(); }
    void begin_array() override {
        if (levels_.empty()) throw ConfigError(fmt::format("{}: a list, expected an object", where_));
        levels_.push_back({next_name(), 0});
    }
    void end_array() override { levels_.pop_back(); }
    void text(std::string_view value) override { take(std::string(value)); }
    void number(std::uint64_t value) override {
        if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
            return take(static_cast<double>(value));
        take(static_cast<std::int64_t>(value));
    }
    void real(double value) override {
        const bool whole =
            value >= -0x1p53 && value <= 0x1p53 && value == static_cast<double>(static_cast<std::int64_t>(value));
        if (whole && value < 0) return take(static_cast<std::int64_t>(value));
        take(value);
    }
    void truth(bool value) override { take(value); }
    void other() override { next_name(); }

private:
    struct Level {
        std::string path;
        std::int64_t place; // of the next item of a list; -1: an object
        std::string key{};
    };

    std::string next_name() {
        if (levels_.empty()) return {};
        Level& level = levels_.back();
        const std::string name = level.place < 0 ? level.key : fmt::format("{}", level.place++);
        return level.path.empty() ? name : level.path + "." + name;
    }
    void take(JsonValues::Value value) {
        if (levels_.empty()) throw ConfigError(fmt::format("{}: a single value, expected an object", where_));
        const std::string name = next_name();
        if (!values_.emplace(name, std::move(value)).second)
            throw ConfigError(fmt::format("{}: '{:.80}' stands there twice", where_, name));
    }

    const std::string& where_;
    Values& values_;
    std::vector<Level> levels_;
};

struct AsText {
    std::string operator()(bool value) const { return value ? "true" : "false"; }
    std::string operator()(std::int64_t value) const { return fmt::format("{}", value); }
    std::string operator()(double value) const { return fmt::format("{}", value); }
    std::string operator()(const std::string& value) const { return json_string(value.substr(0, 80)); }
};

} // namespace

JsonValues::JsonValues(std::string_view text, std::string where) : where_(std::move(where)) {
    ValueReader reader(where_, values_);
    read_json(text, where_, reader);
}

template <class T>
T JsonValues::get(std::string_view name, const std::optional<T>& fallback, const char* expected) const {
    const auto found = values_.find(name);
    if (found == values_.end()) {
        if (fallback) return *fallback;
        throw ConfigError(fmt::format("{}: '{}' is missing: {}", where_, name, expected));
    }
    if (const T* value = std::get_if<T>(&found->second)) return *value;
    refuse(name, fmt::format("expected {}", expected));
}

std::int64_t JsonValues::integer(std::string_view name, std::optional<std::int64_t> fallback) const {
    return get(name, fallback, "a whole number");
}

double JsonValues::number(std::string_view name, std::optional<double> fallback) const {
    const auto found = values_.find(name);
    if (found != values_.end() && std::holds_alternative<std::int64_t>(found->second))
        return static_cast<double>(std::get<std::int64_t>(found->second));
    return get(name, fallback, "a number");
}

bool JsonValues::flag(std::string_view name, std::optional<bool> fallback) const {
    return get(name, fallback, "true or false");
}

std::string JsonValues::text(std::string_view name, std::optional<std::string> fallback) const {
    return get(name, fallback, "a text");
}

void JsonValues::refuse(std::string_view name, const std::string& why) const {
    const auto found = values_.find(name);
    throw ConfigError(fmt::format("{}: {}{}: {}", where_, name,
                                  found == values_.end() ? "" : " = " + std::visit(AsText{}, found->second), why));
}

} // namespace tessera
