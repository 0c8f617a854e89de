// SPDX-License-Identifier: Apache-2.0
// Reading the components of a tokenizer.json: each is an object with a "type" and settings of its own.
#pragma once

#include "core/json_value.hpp"

#include <string>
#include <string_view>

namespace tessera::huggingface {

// Null for a component that is not there: nothing, or null.
inline const JsonValue* present(const JsonValue* value) {
    return value != nullptr && !value->is(JsonValue::Kind::null) ? value : nullptr;
}

// A setting, or `otherwise` where it is not there. Throws ConfigError "tokenizer: 'lowercase' of BertNormalizer is no
// truth value".
bool truth_of(const JsonValue& component, std::string_view name, bool otherwise);
std::string text_of(const JsonValue& component, std::string_view name, std::string_view otherwise);
std::string type_of(const JsonValue& component); // its "type"; throws ConfigError where there is none
const JsonValue& list_of(const JsonValue& component, std::string_view name); // throws ConfigError where there is none

} // namespace tessera::huggingface
