// SPDX-License-Identifier: Apache-2.0
// Whether a TOML text nests so deep that taking its tree apart again, which is a recursion, would overflow the stack.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace tessera {

inline constexpr int most_key_parts = 16; // section.key has two

// The line of the first key or table name with more parts (a.b.c has three). toml++ itself limits brackets to 256 deep,
// but makes a table of every part of a dotted key: 50,000 of them end the process.
std::optional<std::int64_t> line_of_deep_key(std::string_view toml);

} // namespace tessera
