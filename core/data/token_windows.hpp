// SPDX-License-Identifier: Apache-2.0
// The dataset of a language model: windows over runs of tokens in memory, whoever put them there.
#pragma once

#include "core/data/dataset.hpp"

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <variant>
#include <vector>

namespace tessera {

// Tokens back to back, 2 or 4 bytes each. No window leaves its run. Owns nothing.
struct TokenRun {
    std::variant<std::span<const std::uint16_t>, std::span<const std::uint32_t>> tokens;
    std::string name;             // what to call it in messages: its file
    std::int64_t first_token = 0; // its place in that file

    std::int64_t count() const;
    TokenRun part(std::int64_t begin, std::int64_t end) const; // tokens [begin, end)
};

struct TokenRuns {
    std::vector<TokenRun> train;
    std::vector<TokenRun> validation;
    std::vector<std::shared_ptr<const void>> memory; // keeps the tokens alive
    std::int64_t vocabulary_size = 0;
    std::unique_ptr<Tokenizer> tokenizer; // may be null
};

// Moves the last `fraction` of the tokens from train to validation: floor((1 - fraction) * count) stay.
void split_by_fraction(TokenRuns& runs, double fraction);

// Looks at every token; cuts runs at those beyond the vocabulary, so that no window holds one, and counts them.
void leave_out_unknown_tokens(TokenRuns& runs, RecordErrors& errors);

class TokenWindows final : public Dataset {
public:
    // sequence_length >= 1. Throws DataError when train has no window of sequence_length + 1 tokens, or validation
    // has runs but no window.
    TokenWindows(TokenRuns runs, std::int64_t sequence_length, std::vector<SkippedRecords> skipped = {});

    const SampleForm& form() const override { return form_; }
    std::int64_t samples(Split split) const override { return part(split).first_samples.back(); }
    void read(Split split, std::int64_t sample, std::span<const View> views) const override;
    const Tokenizer* tokenizer() const override { return tokenizer_.get(); }
    std::vector<SkippedRecords> skipped() const override { return skipped_; }
    std::string fingerprint() const override;

private:
    struct Part {
        std::vector<TokenRun> runs;
        std::vector<std::int64_t> first_samples; // of each run, and of all at the end
    };

    Part make_part(std::vector<TokenRun> runs, std::string_view name) const;
    const Part& part(Split split) const { return parts_[static_cast<std::size_t>(split)]; }
    [[noreturn]] void refuse_token(const TokenRun& run, std::int64_t begin) const;
    std::string hash_content() const;

    std::int64_t sequence_length_;
    std::int64_t vocabulary_size_;
    SampleForm form_;
    std::unique_ptr<Tokenizer> tokenizer_;
    std::vector<std::shared_ptr<const void>> memory_;
    std::array<Part, 2> parts_; // by Split
    std::vector<SkippedRecords> skipped_;
    mutable std::once_flag hashed_;
    mutable std::string fingerprint_;
};

} // namespace tessera
