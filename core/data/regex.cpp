// SPDX-License-Identifier: Apache-2.0
// The only file that includes Oniguruma. It limits its own search in time and depth (ONIG_DEFAULT limits).
#include "core/data/regex.hpp"

#include "core/data/data_error.hpp"

#include <array>
#include <fmt/format.h>
#include <mutex>
#include <oniguruma.h>

namespace tessera {
namespace {

constexpr unsigned long most_retries = 10'000'000; // of one search, before it is given up

const OnigUChar* bytes_of(std::string_view text) { return reinterpret_cast<const OnigUChar*>(text.data()); }

std::string words_of(int error, OnigErrorInfo* info) {
    std::array<OnigUChar, ONIG_MAX_ERROR_MESSAGE_LEN> words{};
    const int length =
        info ? onig_error_code_to_str(words.data(), error, info) : onig_error_code_to_str(words.data(), error);
    return {reinterpret_cast<const char*>(words.data()), static_cast<std::size_t>(length)};
}

struct Region {
    OnigRegion* found = onig_region_new();
    ~Region() { onig_region_free(found, 1); }
};

} // namespace

Regex::Regex(const std::string& pattern) : pattern_(pattern) {
    static std::once_flag once;
    std::call_once(once, [] {
        std::array<OnigEncoding, 1> encodings{ONIG_ENCODING_UTF8};
        onig_initialize(encodings.data(), 1);
        onig_set_retry_limit_in_search(most_retries);
    });
    regex_t* compiled = nullptr;
    OnigErrorInfo info{};
    const int error = onig_new(&compiled, bytes_of(pattern_), bytes_of(pattern_) + pattern_.size(), ONIG_OPTION_NONE,
                               ONIG_ENCODING_UTF8, ONIG_SYNTAX_ONIGURUMA, &info);
    if (error != ONIG_NORMAL)
        throw ConfigError(fmt::format("'{:.80}' is no regular expression: {}", pattern_, words_of(error, &info)));
    compiled_ = std::shared_ptr<void>(compiled, [](void* regex) { onig_free(static_cast<regex_t*>(regex)); });
}

std::optional<TextRange> Regex::find(std::string_view text, std::size_t from) const {
    thread_local Region region;
    const OnigUChar *begin = bytes_of(text), *end = begin + text.size();
    const int found = onig_search(static_cast<regex_t*>(compiled_.get()), begin, end, begin + from, end, region.found,
                                  ONIG_OPTION_NONE);
    if (found == ONIG_MISMATCH) return std::nullopt;
    if (found < 0)
        throw DataError(fmt::format("the pattern '{:.80}' cannot be searched for in a text: {}", pattern_,
                                    words_of(found, nullptr)));
    return TextRange{static_cast<std::size_t>(region.found->beg[0]), static_cast<std::size_t>(region.found->end[0])};
}

} // namespace tessera
