// SPDX-License-Identifier: Apache-2.0
// A tree grown from the events of read_json; it is at most as deep as that allows.
#include "core/json_value.hpp"

#include "core/json.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>

namespace tessera {
namespace {

class Tree final : public JsonReader {
public:
    JsonValue root;

    void begin_object() override { open(JsonValue::Kind::object); }
    void begin_array() override { open(JsonValue::Kind::array); }
    void end_object() override { open_.pop_back(); }
    void end_array() override { open_.pop_back(); }
    void key(std::string_view name) override { open_.back()->names.emplace_back(name); }
    void text(std::string_view value) override { add(JsonValue::Kind::text).text = value; }
    void number(std::uint64_t value) override { real(static_cast<double>(value)); }
    void real(double value) override { add(JsonValue::Kind::number).number = value; }
    void truth(bool value) override { add(JsonValue::Kind::truth).truth = value; }
    void other() override { add(JsonValue::Kind::null); }

private:
    JsonValue& add(JsonValue::Kind kind) {
        JsonValue& value = open_.empty() ? root : open_.back()->items.emplace_back();
        value.kind = kind;
        return value;
    }
    void open(JsonValue::Kind kind) { open_.push_back(&add(kind)); } // values that are open do not move

    std::vector<JsonValue*> open_;
};

void append(const JsonValue& value, std::string& text) {
    const bool object = value.is(JsonValue::Kind::object);
    switch (value.kind) {
    case JsonValue::Kind::null:
        text += "null";
        break;
    case JsonValue::Kind::truth:
        text += value.truth ? "true" : "false";
        break;
    case JsonValue::Kind::number:
        if (value.number == std::floor(value.number) && std::abs(value.number) < 9e15)
            text += fmt::format("{}", static_cast<std::int64_t>(value.number));
        else
            text += fmt::format("{}", value.number);
        break;
    case JsonValue::Kind::text:
        text += json_string(value.text);
        break;
    case JsonValue::Kind::array:
    case JsonValue::Kind::object:
        text += object ? '{' : '[';
        for (std::size_t i = 0; i < value.items.size(); ++i) {
            if (i > 0) text += ',';
            if (object) text += json_string(value.names[i]) + ":";
            append(value.items[i], text);
        }
        text += object ? '}' : ']';
    }
}

} // namespace

const JsonValue* JsonValue::find(std::string_view name) const {
    if (kind != Kind::object) return nullptr;
    const auto found = std::find(names.rbegin(), names.rend(), name);
    return found == names.rend() ? nullptr : &items[static_cast<std::size_t>(names.rend() - found) - 1];
}

JsonValue parse_json(std::string_view text, const std::string& where) {
    Tree tree;
    read_json(text, where, tree);
    return std::move(tree.root);
}

std::string json_text(const JsonValue& value) {
    std::string text;
    append(value, text);
    return text;
}

} // namespace tessera
