// SPDX-License-Identifier: Apache-2.0
// Regular expressions over UTF-8 with Unicode's classes, in Oniguruma's syntax, which is that of Hugging Face's files.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace tessera {

struct TextRange {
    std::size_t begin = 0;
    std::size_t end = 0;
};

class Regex {
public:
    // Throws ConfigError with the library's words when the pattern is none.
    explicit Regex(const std::string& pattern);

    // The first match in `text` (valid UTF-8) that begins at or after `from`. Thread-safe. Throws DataError for a text
    // on which the pattern takes too long.
    std::optional<TextRange> find(std::string_view text, std::size_t from) const;

private:
    std::string pattern_;
    std::shared_ptr<void> compiled_;
};

} // namespace tessera
