// SPDX-License-Identifier: Apache-2.0
// Counts dots between what can end a key, and passes over strings and comments as TOML 1.0 does.
#include "core/toml_depth.hpp"

#include <algorithm>

namespace tessera {
namespace {

// Behind the string that begins at `at`; text.size() when it does not end. A string of one line ends with its line,
// too: there it is wrong, and refused when it is parsed.
std::size_t behind_string(std::string_view text, std::size_t at) {
    const char quote = text[at];
    const bool escapes = quote == '"';
    const bool long_one = text.substr(at, 3) == (escapes ? "\"\"\"" : "'''");
    for (std::size_t i = at + (long_one ? 3 : 1); i < text.size(); ++i) {
        if (escapes && text[i] == '\\') {
            ++i;
        } else if (!long_one && (text[i] == quote || text[i] == '\n')) {
            return text[i] == quote ? i + 1 : i;
        } else if (long_one && text.substr(i, 3) == text.substr(at, 3)) {
            i += 3; // and two quotes more may belong to its end
            for (int more = 0; more < 2 && i < text.size() && text[i] == quote; ++more)
                ++i;
            return i;
        }
    }
    return text.size();
}

} // namespace

std::optional<std::int64_t> line_of_deep_key(std::string_view toml) {
    int parts = 1;
    for (std::size_t i = 0; i < toml.size();) {
        const char letter = toml[i];
        if (letter == '"' || letter == '\'') {
            i = behind_string(toml, i);
            continue;
        }
        if (letter == '#') {
            i = std::min(toml.find('\n', i), toml.size());
            continue;
        }
        if (letter == '.' && ++parts > most_key_parts)
            return 1 + std::count(toml.begin(), toml.begin() + static_cast<std::ptrdiff_t>(i), '\n');
        if (std::string_view("\n=,[]{}").find(letter) != std::string_view::npos) parts = 1;
        ++i;
    }
    return std::nullopt;
}

} // namespace tessera
