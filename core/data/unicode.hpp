// SPDX-License-Identifier: Apache-2.0
// What Unicode says of a code point, and its normal forms (UAX 15). Text is valid UTF-8.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tessera {

bool is_white_space(std::uint32_t code_point); // the property White_Space
// P* of Unicode 8, by which Hugging Face's tokenizers go, and all of ASCII's.
bool is_unicode_punctuation(std::uint32_t code_point);
bool is_control(std::uint32_t code_point);         // C*, but for what is not assigned
bool is_mark(std::uint32_t code_point);            // M*
bool is_nonspacing_mark(std::uint32_t code_point); // Mn of Unicode 8
bool is_number(std::uint32_t code_point);          // N*
bool is_letter(std::uint32_t code_point);          // L*
bool is_word(std::uint32_t code_point);            // letters, marks, decimal digits, connectors: \w
bool is_cjk_ideograph(std::uint32_t code_point);   // as BERT's authors drew the borders

std::string lower_case(std::string_view text); // code point by code point
enum class NormalForm { nfc, nfd, nfkc, nfkd };
std::string normalized(std::string_view text, NormalForm form);

} // namespace tessera
