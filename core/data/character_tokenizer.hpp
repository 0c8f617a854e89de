// SPDX-License-Identifier: Apache-2.0
// One id per Unicode code point of the training corpus, in ascending order.
#pragma once

#include "core/data/tokenizer.hpp"

#include <array>

namespace tessera {

class CharacterTokenizer final : public Tokenizer {
public:
    // The code points in strictly ascending order, at least one: checked by who calls (training and load do).
    explicit CharacterTokenizer(std::vector<std::uint32_t> code_points);

    std::string_view kind() const override { return "character"; }
    std::int64_t vocabulary_size() const override { return static_cast<std::int64_t>(code_points_.size()); }
    std::vector<std::int32_t> encode(std::string_view text, std::string_view source) const override;
    std::string decode(std::span<const std::int32_t> tokens) const override;
    std::string save() const override; // {"kind": "character", "code_points": [10, 32, …]}

private:
    std::int32_t id_of(std::uint32_t code_point) const; // -1 for one outside the vocabulary

    std::vector<std::uint32_t> code_points_; // by id
    std::array<std::int32_t, 256> first_;    // ids of the first code points
};

std::unique_ptr<Tokenizer> train_character_tokenizer(std::span<const NamedText> corpus);

} // namespace tessera
