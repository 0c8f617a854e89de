// SPDX-License-Identifier: Apache-2.0
// The pre-tokenizers of a tokenizer.json: how a normalised text is cut into the pieces that tokens never cross.
#pragma once

#include "core/json_value.hpp"

#include <functional>
#include <string>
#include <vector>

namespace tessera::huggingface {

// Pieces to pieces. `first`: the first of them is the beginning of the text.
using Splitter = std::function<std::vector<std::string>(std::vector<std::string>, bool first)>;

// Throws ConfigError for a component that is not known or not right. `component` null: nothing is cut.
Splitter make_splitter(const JsonValue* component);

} // namespace tessera::huggingface
