// SPDX-License-Identifier: Apache-2.0
// Escapes for control characters.
#include "core/visible.hpp"

#include <fmt/format.h>

namespace tessera {

std::string visible(std::string_view text) {
    std::string result;
    result.reserve(text.size());
    for (std::size_t i = 0; i < text.size(); ++i) {
        const auto byte = static_cast<unsigned char>(text[i]);
        // U+0080 to U+009F, in UTF-8 C2 80 to C2 9F, are control characters, too
        const bool second = i > 0 && static_cast<unsigned char>(text[i - 1]) == 0xc2 && byte >= 0x80 && byte < 0xa0;
        if ((byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f || second)
            result += fmt::format("\\x{:02x}", byte);
        else
            result += text[i];
    }
    return result;
}

} // namespace tessera
