// SPDX-License-Identifier: Apache-2.0
// UTF-8 by the table of RFC 3629: the lead byte says how many follow, and the shortest form is the only one.
#include "core/data/utf8.hpp"

#include <array>
#include <fmt/format.h>

namespace tessera {

std::optional<CodePoint> read_code_point(std::string_view text, std::size_t at) {
    const auto lead = static_cast<unsigned char>(text[at]);
    if (lead < 0x80) return CodePoint{lead, 1};
    if (lead < 0xc2 || lead > 0xf4) return std::nullopt; // a continuation byte, an overlong form, or beyond U+13FFFF
    const std::size_t bytes = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (text.size() - at < bytes) return std::nullopt;
    std::uint32_t value = lead & (0xffu >> (bytes + 1));
    for (std::size_t i = 1; i < bytes; ++i) {
        const auto byte = static_cast<unsigned char>(text[at + i]);
        if ((byte & 0xc0u) != 0x80) return std::nullopt;
        value = (value << 6) | (byte & 0x3fu);
    }
    constexpr std::array<std::uint32_t, 5> smallest = {0, 0, 0x80, 0x800, 0x10000};
    if (value < smallest[bytes] || !is_code_point(value)) return std::nullopt;
    return CodePoint{value, bytes};
}

bool is_code_point(std::uint64_t value) { return value < code_point_limit && (value < 0xd800 || value > 0xdfff); }

void append_utf8(std::string& text, std::uint32_t code_point) {
    const auto put = [&](std::uint32_t byte) { text.push_back(static_cast<char>(byte)); };
    const auto put_six_bits = [&](int shift) { put(0x80u | ((code_point >> shift) & 0x3fu)); };
    if (code_point < 0x80) {
        put(code_point);
    } else if (code_point < 0x800) {
        put(0xc0u | (code_point >> 6));
        put_six_bits(0);
    } else if (code_point < 0x10000) {
        put(0xe0u | (code_point >> 12));
        put_six_bits(6);
        put_six_bits(0);
    } else {
        put(0xf0u | (code_point >> 18));
        put_six_bits(12);
        put_six_bits(6);
        put_six_bits(0);
    }
}

std::string describe_code_point(std::uint32_t code_point) {
    std::string shown;
    if (code_point == '\n')
        shown = "\\n";
    else if (code_point == '\r')
        shown = "\\r";
    else if (code_point == '\t')
        shown = "\\t";
    else if (code_point < 0x20 || (code_point >= 0x7f && code_point < 0xa0))
        shown = fmt::format("\\x{:02x}", code_point);
    else
        append_utf8(shown, code_point);
    return fmt::format("'{}' (U+{:04X})", shown, code_point);
}

std::string invalid_utf8(std::string_view source, std::string_view text, std::size_t at) {
    return fmt::format(
        "{}: byte {} (0x{:02x}) is not valid UTF-8; convert the text, or use the tokenizer 'byte' or 'bpe'", source, at,
        static_cast<unsigned char>(text[at]));
}

} // namespace tessera
