// SPDX-License-Identifier: Apache-2.0
// JSON as a tree, for files whose form is too rich to be taken as it is read (json.hpp).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

struct JsonValue {
    enum class Kind : std::uint8_t { null, truth, number, text, array, object };

    Kind kind = Kind::null;
    bool truth = false;
    double number = 0;
    std::string text;
    std::vector<JsonValue> items;   // of an array; of an object the values,
    std::vector<std::string> names; // and their names, in the order of the text

    bool is(Kind wanted) const { return kind == wanted; }
    // The member of this name, the last of several; null when there is none or this is no object.
    const JsonValue* find(std::string_view name) const;
};

// Throws as read_json does.
JsonValue parse_json(std::string_view text, const std::string& where);
// On one line, ASCII only. Whole numbers below 2^53 are written as such.
std::string json_text(const JsonValue& value);

} // namespace tessera
