// SPDX-License-Identifier: Apache-2.0
// The decoders of a tokenizer.json: how tokens become text again.
#pragma once

#include "core/json_value.hpp"

#include <functional>
#include <string>
#include <vector>

namespace tessera::huggingface {

// Tokens to fewer or other ones; what is left is put side by side. Bytes that are no UTF-8 stay as they are.
using Joiner = std::function<std::vector<std::string>(std::vector<std::string>)>;

// Throws ConfigError for a component that is not known or not right. `component` null: a space between tokens.
Joiner make_joiner(const JsonValue* component);

} // namespace tessera::huggingface
