// SPDX-License-Identifier: Apache-2.0
// The "added_tokens" of a tokenizer.json: texts such as "<|endoftext|>" that are one token wherever they stand.
#pragma once

#include "core/data/huggingface/normalizer.hpp"

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::huggingface {

struct AddedToken {
    std::int32_t id = 0;
    std::string content;
    bool single_word = false;         // only where no letter stands beside it
    bool left = false, right = false; // takes the white space beside it along
    bool normalized = false;          // is looked for after the normalizer
};

// Throws ConfigError for an entry that is none.
std::vector<AddedToken> added_tokens_of(const JsonValue& root);

// A text cut at tokens: id -1 is text, else the token.
struct Segment {
    std::int32_t id = -1;
    std::string_view text;
};

class AddedTokens {
public:
    AddedTokens() = default;
    // Looks for those that are to be found before the normalizer, or after it: then for what it makes of them.
    AddedTokens(const std::vector<AddedToken>& tokens, bool normalized, const Normalizer& normalizer);
    // The leftmost, of those the longest.
    std::vector<Segment> cut(std::string_view text) const;

private:
    const AddedToken* longest_at(std::string_view text, std::size_t at) const;

    std::array<std::vector<AddedToken>, 256> by_first_byte_; // content as it is looked for; the longest first
};

} // namespace tessera::huggingface
