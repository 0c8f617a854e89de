// SPDX-License-Identifier: Apache-2.0
// Megatron's indexed data set: NAME.bin holds the tokens of all documents back to back, NAME.idx where each begins.
//   magic "MMIDIDX\0\0", u64 version 1, u8 dtype code, u64 sequences, u64 documents + 1,
//   i32 lengths[sequences], i64 first bytes[sequences], i64 first sequences[documents + 1]      little-endian,
//   unaligned
#pragma once

#include "core/data/mapped_file.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

class IndexedTokens {
public:
    // NAME.bin, NAME.idx or NAME. Checks the index against itself and the size of the tokens' file. Throws DataError.
    explicit IndexedTokens(const std::string& path);

    const std::string& bin_path() const { return bin_.path(); }
    const std::string& idx_path() const { return idx_.path(); }
    int token_bytes() const { return token_bytes_; } // 2 (uint16) or 4 (int32)
    std::int64_t tokens() const { return static_cast<std::int64_t>(bin_.bytes().size()) / token_bytes_; }
    std::int64_t sequences() const { return static_cast<std::int64_t>(sequences_); }
    std::int64_t length(std::int64_t sequence) const;
    std::int64_t first_token(std::int64_t sequence) const;
    std::span<const std::byte> bytes() const { return bin_.bytes(); }
    std::uint32_t token(std::int64_t number) const;

private:
    void check_index() const;

    MappedFile bin_, idx_;
    int token_bytes_ = 0;
    std::uint64_t sequences_ = 0;
    const std::byte *lengths_ = nullptr, *begins_ = nullptr;
};

// The bytes of an index whose documents are single sequences of so many tokens each.
std::string index_bytes(const std::vector<std::int32_t>& lengths, int token_bytes);

} // namespace tessera
