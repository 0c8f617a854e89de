// SPDX-License-Identifier: Apache-2.0
// Reading a window is finding its run, widening its tokens to 32 bits twice, and one look at the largest of them.
#include "core/data/token_windows.hpp"

#include "core/data/content_hash.hpp"
#include "core/data/data_error.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <fmt/format.h>

namespace tessera {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are little-endian and read in place");

// tokens, targets: (T)     source: T + 1 tokens. Returns the largest token.
template <class Token>
std::uint32_t copy_window(std::span<const Token> source, std::int32_t* tokens, std::int32_t* targets) {
    const std::size_t length = source.size() - 1;
    std::uint32_t largest = source[0];
    for (std::size_t i = 0; i < length; ++i) {
        const auto target = static_cast<std::uint32_t>(source[i + 1]);
        tokens[i] = static_cast<std::int32_t>(source[i]);
        targets[i] = static_cast<std::int32_t>(target);
        largest = std::max(largest, target);
    }
    return largest;
}

std::string names_of(const std::vector<TokenRun>& runs) {
    if (runs.size() < 2) return runs.empty() ? "the data" : runs[0].name;
    return fmt::format("{} and {} more", runs[0].name, runs.size() - 1);
}

} // namespace

std::int64_t TokenRun::count() const {
    return std::visit([](auto span) { return static_cast<std::int64_t>(span.size()); }, tokens);
}

TokenRun TokenRun::part(std::int64_t begin, std::int64_t end) const {
    TokenRun cut = *this;
    cut.first_token += begin;
    std::visit(
        [&](auto span) {
            cut.tokens = span.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
        },
        tokens);
    return cut;
}

void split_by_fraction(TokenRuns& runs, double fraction) {
    if (!(fraction >= 0 && fraction < 1))
        throw ConfigError(fmt::format("validation_fraction is {}, expected from 0 to less than 1", fraction));
    if (fraction == 0) return;
    std::int64_t count = 0;
    for (const TokenRun& run : runs.train)
        count += run.count();
    auto left = static_cast<std::int64_t>(std::floor((1 - fraction) * static_cast<double>(count)));
    const std::vector<TokenRun> all = std::move(runs.train);
    runs.train.clear();
    for (const TokenRun& run : all) {
        const std::int64_t kept = std::min(left, run.count());
        if (kept > 0) runs.train.push_back(run.part(0, kept));
        if (kept < run.count()) runs.validation.push_back(run.part(kept, run.count()));
        left -= kept;
    }
}

void leave_out_unknown_tokens(TokenRuns& runs, RecordErrors& errors) {
    for (std::vector<TokenRun>* part : {&runs.train, &runs.validation}) {
        std::vector<TokenRun> kept;
        for (const TokenRun& run : *part) {
            std::int64_t begin = 0;
            for (std::int64_t i = 0; i < run.count(); ++i) {
                const std::uint32_t token =
                    std::visit([&](auto all) { return std::uint32_t{all[static_cast<std::size_t>(i)]}; }, run.tokens);
                if (token < static_cast<std::uint64_t>(runs.vocabulary_size)) continue;
                errors.count("token", fmt::format("{}: token number {} is {}, beyond the vocabulary of {}", run.name,
                                                  run.first_token + i, token, runs.vocabulary_size));
                if (i > begin) kept.push_back(run.part(begin, i));
                begin = i + 1;
            }
            if (begin < run.count()) kept.push_back(run.part(begin, run.count()));
        }
        *part = std::move(kept);
    }
}

TokenWindows::TokenWindows(TokenRuns runs, std::int64_t sequence_length, std::vector<SkippedRecords> skipped)
    : sequence_length_(sequence_length), vocabulary_size_(runs.vocabulary_size),
      form_(text_form(sequence_length, runs.vocabulary_size)), tokenizer_(std::move(runs.tokenizer)),
      memory_(std::move(runs.memory)), skipped_(std::move(skipped)) {
    const bool has_validation = !runs.validation.empty();
    parts_[0] = make_part(std::move(runs.train), "training");
    if (has_validation)
        parts_[1] = make_part(std::move(runs.validation), "validation");
    else
        parts_[1].first_samples = {0};
}

// A run of which the split left less than a window has no samples; only a part without any is refused.
TokenWindows::Part TokenWindows::make_part(std::vector<TokenRun> runs, std::string_view name) const {
    Part part;
    std::int64_t samples = 0;
    std::int64_t tokens = 0;
    for (const TokenRun& run : runs) {
        part.first_samples.push_back(samples);
        samples += std::max<std::int64_t>(0, run.count() - sequence_length_);
        tokens += run.count();
    }
    part.first_samples.push_back(samples);
    if (samples == 0)
        throw DataError(fmt::format("{} has {} tokens for {}, a window of {} needs {}", names_of(runs), tokens, name,
                                    sequence_length_, sequence_length_ + 1));
    part.runs = std::move(runs);
    return part;
}

void TokenWindows::read(Split split, std::int64_t sample, std::span<const View> views) const {
    const Part& from = part(split);
    if (sample < 0 || sample >= samples(split))
        throw InternalError(fmt::format("dataset: sample {} of {}", sample, samples(split)));
    const Shape expected{sequence_length_};
    if (views.size() != 2 || views[0].shape != expected || views[1].shape != expected)
        throw InternalError(fmt::format("dataset: 'tokens' and 'targets' are both {}", expected.text()));
    auto* tokens = views[0].as<std::int32_t>();
    auto* targets = views[1].as<std::int32_t>();
    // The last run that starts at or before the sample; runs without samples start where the next one does.
    const auto after = std::upper_bound(from.first_samples.begin(), from.first_samples.end(), sample);
    const auto place = static_cast<std::size_t>(after - from.first_samples.begin()) - 1;
    const TokenRun& run = from.runs[place];
    const std::int64_t begin = sample - from.first_samples[place];
    const auto length = static_cast<std::size_t>(sequence_length_ + 1);
    const std::uint32_t largest = std::visit(
        [&](auto all) { return copy_window(all.subspan(static_cast<std::size_t>(begin), length), tokens, targets); },
        run.tokens);
    if (largest >= static_cast<std::uint64_t>(vocabulary_size_)) refuse_token(run, begin);
}

void TokenWindows::refuse_token(const TokenRun& run, std::int64_t begin) const {
    std::visit(
        [&](auto all) {
            for (auto i = static_cast<std::size_t>(begin); i < all.size(); ++i)
                if (all[i] >= static_cast<std::uint64_t>(vocabulary_size_))
                    throw DataError(fmt::format("{}: token number {} is {}, beyond the vocabulary of {}", run.name,
                                                run.first_token + static_cast<std::int64_t>(i), all[i],
                                                vocabulary_size_));
        },
        run.tokens);
    throw InternalError("dataset: a token beyond the vocabulary is gone: the file is being changed");
}

std::string TokenWindows::fingerprint() const {
    std::call_once(hashed_, [&] { fingerprint_ = hash_content(); });
    return fingerprint_;
}

std::string TokenWindows::hash_content() const {
    ContentHash hash;
    hash.add(vocabulary_size_);
    const std::string vocabulary = tokenizer_ ? tokenizer_->save() : "";
    hash.add(static_cast<std::int64_t>(vocabulary.size()));
    hash.add(vocabulary.data(), vocabulary.size());
    for (const Part& part : parts_) {
        hash.add(static_cast<std::int64_t>(part.runs.size()));
        for (const TokenRun& run : part.runs)
            std::visit(
                [&](auto all) {
                    hash.add(static_cast<std::int64_t>(sizeof all[0]));
                    hash.add(static_cast<std::int64_t>(all.size()));
                    hash.add(all.data(), all.size_bytes());
                },
                run.tokens);
    }
    return hash.text();
}

} // namespace tessera
