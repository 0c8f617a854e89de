// SPDX-License-Identifier: Apache-2.0
#include "core/data/indexed_tokens.hpp"

#include "core/data/data_error.hpp"

#include <cstring>
#include <fmt/format.h>
#include <string_view>

namespace tessera {
namespace {

constexpr std::string_view magic{"MMIDIDX\0\0", 9};
constexpr std::size_t header_bytes = 34;
constexpr std::uint8_t code_i32 = 4, code_u16 = 8;

template <class Number> Number number_at(const std::byte* bytes) {
    Number value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
}

template <class Number> void append(std::string& bytes, Number value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string with_ending(const std::string& path, const char* ending) {
    const bool has = path.ends_with(".bin") || path.ends_with(".idx");
    return path.substr(0, path.size() - (has ? 4 : 0)) + ending;
}

} // namespace

IndexedTokens::IndexedTokens(const std::string& path)
    : bin_(with_ending(path, ".bin")), idx_(with_ending(path, ".idx")) {
    const std::span<const std::byte> bytes = idx_.bytes();
    if (bytes.size() < header_bytes || !idx_.text().starts_with(magic))
        throw DataError(fmt::format("{}: not an index of Megatron's (it does not begin with MMIDIDX)", idx_.path()));
    const auto version = number_at<std::uint64_t>(bytes.data() + 9);
    if (version != 1) throw DataError(fmt::format("{}: version {} of this format, expected 1", idx_.path(), version));
    const auto code = number_at<std::uint8_t>(bytes.data() + 17);
    if (code != code_i32 && code != code_u16)
        throw DataError(fmt::format("{}: tokens of dtype code {}, expected {} (int32) or {} (uint16)", idx_.path(),
                                    code, code_i32, code_u16));
    token_bytes_ = code == code_u16 ? 2 : 4;
    sequences_ = number_at<std::uint64_t>(bytes.data() + 18);
    const auto documents = number_at<std::uint64_t>(bytes.data() + 26);
    const std::size_t held = bytes.size() - header_bytes;
    if (sequences_ > held / 12 || documents > held / 8 || sequences_ * 12 + documents * 8 > held)
        throw DataError(
            fmt::format("{}: the header says {} sequences and {} documents, but {} bytes follow it (truncated)",
                        idx_.path(), sequences_, documents, held));
    lengths_ = bytes.data() + header_bytes;
    begins_ = lengths_ + sequences_ * 4;
    check_index();
}

void IndexedTokens::check_index() const {
    const auto size = static_cast<std::int64_t>(bin_.bytes().size());
    if (size % token_bytes_ != 0)
        throw DataError(fmt::format("{}: {} bytes are no multiple of {}", bin_.path(), size, token_bytes_));
    for (std::int64_t i = 0; i < sequences(); ++i) {
        const auto begin = number_at<std::int64_t>(begins_ + i * 8);
        const std::int64_t bytes = length(i) * token_bytes_;
        if (length(i) < 0 || begin < 0 || begin % token_bytes_ != 0 || begin > size || bytes > size - begin)
            throw DataError(fmt::format("{}: sequence {} has {} tokens from byte {} on, but {} has {} bytes",
                                        idx_.path(), i, length(i), begin, bin_.path(), size));
    }
}

std::int64_t IndexedTokens::length(std::int64_t sequence) const {
    return number_at<std::int32_t>(lengths_ + sequence * 4);
}

std::int64_t IndexedTokens::first_token(std::int64_t sequence) const {
    return number_at<std::int64_t>(begins_ + sequence * 8) / token_bytes_;
}

std::uint32_t IndexedTokens::token(std::int64_t number) const {
    const std::byte* at = bin_.bytes().data() + number * token_bytes_;
    return token_bytes_ == 2 ? number_at<std::uint16_t>(at) : number_at<std::uint32_t>(at);
}

std::string index_bytes(const std::vector<std::int32_t>& lengths, int token_bytes) {
    std::string bytes(magic);
    append(bytes, std::uint64_t{1});
    append(bytes, token_bytes == 2 ? code_u16 : code_i32);
    append(bytes, static_cast<std::uint64_t>(lengths.size()));
    append(bytes, static_cast<std::uint64_t>(lengths.size() + 1));
    for (const std::int32_t length : lengths)
        append(bytes, length);
    std::int64_t begin = 0;
    for (const std::int32_t length : lengths) {
        append(bytes, begin);
        begin += std::int64_t{length} * token_bytes;
    }
    for (std::size_t i = 0; i <= lengths.size(); ++i)
        append(bytes, static_cast<std::int64_t>(i));
    return bytes;
}

} // namespace tessera
