// SPDX-License-Identifier: Apache-2.0
// The only file that includes utf8proc.
#include "core/data/unicode.hpp"

#include "core/data/utf8.hpp"
#include "kernels/error.hpp"

#include <array>
#include <fmt/format.h>
#include <utf8proc.h>
#include <vector>

namespace tessera {
namespace {

utf8proc_category_t category(std::uint32_t code_point) {
    return utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
}

// Became punctuation after Unicode 8.
constexpr std::array<std::array<std::uint32_t, 2>, 30> late_punctuation = {
    {{0x61D, 0x61D},     {0x9FD, 0x9FD},     {0xA76, 0xA76},     {0xC77, 0xC77},     {0xC84, 0xC84},
     {0x1B7D, 0x1B7E},   {0x2E43, 0x2E4F},   {0x2E52, 0x2E5D},   {0x10EAD, 0x10EAD}, {0x10F55, 0x10F59},
     {0x10F86, 0x10F89}, {0x1144B, 0x1144F}, {0x1145A, 0x1145B}, {0x1145D, 0x1145D}, {0x11660, 0x1166C},
     {0x116B9, 0x116B9}, {0x1183B, 0x1183B}, {0x11944, 0x11946}, {0x119E2, 0x119E2}, {0x11A3F, 0x11A46},
     {0x11A9A, 0x11A9C}, {0x11A9E, 0x11AA2}, {0x11C41, 0x11C45}, {0x11C70, 0x11C71}, {0x11EF7, 0x11EF8},
     {0x11FFF, 0x11FFF}, {0x12FF1, 0x12FF2}, {0x16E97, 0x16E9A}, {0x16FE2, 0x16FE2}, {0x1E95E, 0x1E95F}}};

// Nonspacing marks that came after Unicode 8.
constexpr std::array<std::array<std::uint32_t, 2>, 80> late_marks = {
    {{0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8E1},     {0x9FE, 0x9FE},     {0xAFA, 0xAFF},
     {0xB55, 0xB55},     {0xC04, 0xC04},     {0xC3C, 0xC3C},     {0xD00, 0xD00},     {0xD3B, 0xD3C},
     {0xD81, 0xD81},     {0xEBA, 0xEBA},     {0x180F, 0x180F},   {0x1885, 0x1886},   {0x1ABF, 0x1ACE},
     {0x1DF6, 0x1DFB},   {0xA82C, 0xA82C},   {0xA8C5, 0xA8C5},   {0xA8FF, 0xA8FF},   {0xA9BD, 0xA9BD},
     {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070},
     {0x11073, 0x11074}, {0x110C2, 0x110C2}, {0x111C9, 0x111C9}, {0x111CF, 0x111CF}, {0x1123E, 0x1123E},
     {0x1133B, 0x1133B}, {0x11438, 0x1143F}, {0x11442, 0x11444}, {0x11446, 0x11446}, {0x1145E, 0x1145E},
     {0x1182F, 0x11837}, {0x11839, 0x1183A}, {0x1193B, 0x1193C}, {0x1193E, 0x1193E}, {0x11943, 0x11943},
     {0x119D4, 0x119D7}, {0x119DA, 0x119DB}, {0x119E0, 0x119E0}, {0x11A01, 0x11A0A}, {0x11A33, 0x11A38},
     {0x11A3B, 0x11A3E}, {0x11A47, 0x11A47}, {0x11A51, 0x11A56}, {0x11A59, 0x11A5B}, {0x11A8A, 0x11A96},
     {0x11A98, 0x11A99}, {0x11C30, 0x11C36}, {0x11C38, 0x11C3D}, {0x11C3F, 0x11C3F}, {0x11C92, 0x11CA7},
     {0x11CAA, 0x11CB0}, {0x11CB2, 0x11CB3}, {0x11CB5, 0x11CB6}, {0x11D31, 0x11D36}, {0x11D3A, 0x11D3A},
     {0x11D3C, 0x11D3D}, {0x11D3F, 0x11D45}, {0x11D47, 0x11D47}, {0x11D90, 0x11D91}, {0x11D95, 0x11D95},
     {0x11D97, 0x11D97}, {0x11EF3, 0x11EF4}, {0x16F4F, 0x16F4F}, {0x16FE4, 0x16FE4}, {0x1CF00, 0x1CF2D},
     {0x1CF30, 0x1CF46}, {0x1E000, 0x1E006}, {0x1E008, 0x1E018}, {0x1E01B, 0x1E021}, {0x1E023, 0x1E024},
     {0x1E026, 0x1E02A}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E944, 0x1E94A}}};

template <std::size_t count>
bool is_in(const std::array<std::array<std::uint32_t, 2>, count>& ranges, std::uint32_t code_point) {
    for (const auto& [first, last] : ranges)
        if (code_point >= first && code_point <= last) return true;
    return false;
}

} // namespace

bool is_white_space(std::uint32_t c) {
    return c == ' ' || (c >= 9 && c <= 13) || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_unicode_punctuation(std::uint32_t c) {
    if (c < 128) return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
    const utf8proc_category_t of = category(c);
    const bool now = of >= UTF8PROC_CATEGORY_PC && of <= UTF8PROC_CATEGORY_PO;
    return c == 0x166D || c == 0x111C9 || (now && !is_in(late_punctuation, c)); // those two were then
}

bool is_control(std::uint32_t c) { return category(c) >= UTF8PROC_CATEGORY_CC; }

bool is_mark(std::uint32_t c) {
    const utf8proc_category_t of = category(c);
    return of >= UTF8PROC_CATEGORY_MN && of <= UTF8PROC_CATEGORY_ME;
}

bool is_nonspacing_mark(std::uint32_t c) {
    return c >= 0x300 && category(c) == UTF8PROC_CATEGORY_MN && !is_in(late_marks, c);
}

bool is_letter(std::uint32_t c) {
    const utf8proc_category_t of = category(c);
    return of >= UTF8PROC_CATEGORY_LU && of <= UTF8PROC_CATEGORY_LO;
}

bool is_number(std::uint32_t c) {
    const utf8proc_category_t of = category(c);
    return of >= UTF8PROC_CATEGORY_ND && of <= UTF8PROC_CATEGORY_NO;
}

bool is_word(std::uint32_t c) {
    const utf8proc_category_t of = category(c);
    return (of >= UTF8PROC_CATEGORY_LU && of <= UTF8PROC_CATEGORY_LO) || is_mark(c) || of == UTF8PROC_CATEGORY_ND ||
           of == UTF8PROC_CATEGORY_PC;
}

bool is_cjk_ideograph(std::uint32_t c) {
    constexpr std::array<std::array<std::uint32_t, 2>, 8> ranges = {{{0x4E00, 0x9FFF},
                                                                     {0x3400, 0x4DBF},
                                                                     {0x20000, 0x2A6DF},
                                                                     {0x2A700, 0x2B73F},
                                                                     {0x2B740, 0x2B81F},
                                                                     {0x2B920, 0x2CEAF},
                                                                     {0xF900, 0xFAFF},
                                                                     {0x2F800, 0x2FA1F}}};
    return is_in(ranges, c);
}

std::string lower_case(std::string_view text) {
    std::string lower;
    lower.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
        const CodePoint here = *read_code_point(text, at);
        at += here.bytes;
        if (here.value < 128)
            lower += static_cast<char>(here.value >= 'A' && here.value <= 'Z' ? here.value + 32 : here.value);
        else if (here.value == 0x130) // the only one whose lower case is two, wherever it stands
            lower += "i\xCC\x87";
        else
            append_utf8(lower, static_cast<std::uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(here.value))));
    }
    return lower;
}

std::string normalized(std::string_view text, NormalForm form) {
    const bool compose = form == NormalForm::nfc || form == NormalForm::nfkc;
    const bool compatible = form == NormalForm::nfkc || form == NormalForm::nfkd;
    const int options =
        UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compatible ? UTF8PROC_COMPAT : 0);
    const auto option = static_cast<utf8proc_option_t>(options);
    const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
    const auto size = static_cast<utf8proc_ssize_t>(text.size());
    const utf8proc_ssize_t count = utf8proc_decompose(bytes, size, nullptr, 0, option);
    if (count < 0) throw InternalError(fmt::format("normal form of a text: {}", utf8proc_errmsg(count)));
    std::vector<utf8proc_int32_t> points(static_cast<std::size_t>(count) + 1); // the library ends it with a 0
    utf8proc_decompose(bytes, size, points.data(), count, option);
    const utf8proc_ssize_t kept = utf8proc_normalize_utf32(points.data(), count, option);
    std::string out;
    out.reserve(text.size());
    for (utf8proc_ssize_t i = 0; i < kept; ++i)
        append_utf8(out, static_cast<std::uint32_t>(points[static_cast<std::size_t>(i)]));
    return out;
}

} // namespace tessera
