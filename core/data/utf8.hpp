// SPDX-License-Identifier: Apache-2.0
// Unicode code points in UTF-8 (RFC 3629): strict reading, writing, and the words for a code point in a message.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tessera {

inline constexpr std::uint32_t code_point_limit = 0x110000;

struct CodePoint {
    std::uint32_t value = 0;
    std::size_t bytes = 0;
};

// The code point that starts at byte `at` < text.size(). Nothing where the bytes are no UTF-8: cut short, overlong, a
// surrogate, beyond U+10FFFF, or a continuation byte.
std::optional<CodePoint> read_code_point(std::string_view text, std::size_t at);

bool is_code_point(std::uint64_t value); // one that UTF-8 can hold: below the limit and no surrogate
void append_utf8(std::string& text, std::uint32_t code_point);

// "'é' (U+00E9)", control characters escaped: "'\n' (U+000A)".
std::string describe_code_point(std::uint32_t code_point);

// The sentence for bytes that are no UTF-8, for a ConfigError.
std::string invalid_utf8(std::string_view source, std::string_view text, std::size_t at);

} // namespace tessera
