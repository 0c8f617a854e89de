// SPDX-License-Identifier: Apache-2.0
// The normalizers of a tokenizer.json: what happens to a text before it is cut.
#pragma once

#include "core/json_value.hpp"

#include <functional>
#include <string>

namespace tessera::huggingface {

// Valid UTF-8 to valid UTF-8.
using Normalizer = std::function<std::string(std::string)>;

// Throws ConfigError for a component that is not known or not right. `component` null: the text stays as it is.
Normalizer make_normalizer(const JsonValue* component);

// The byte-level alphabet: each byte as a printable code point, and back (or -1).
const std::string& byte_as_text(unsigned char byte);
int byte_of_text(std::uint32_t code_point);
std::string bytes_as_text(std::string_view bytes);

} // namespace tessera::huggingface
