// SPDX-License-Identifier: Apache-2.0
// A Markov chain that a model can learn: after each token come four others, with the chances 1/2, 1/4, 1/8 and 1/8. Its
// entropy, 1.75 bits = 1.213 nats a token (a little less where two of the four are one), is the loss to reach.
#include "core/data/readers.hpp"
#include "kernels/error.hpp"
#include "kernels/random.hpp"

#include <array>
#include <bit>
#include <fmt/format.h>

namespace tessera {
namespace {

constexpr std::int64_t vocabulary_limit = 1 << 20;
constexpr std::int64_t tokens_limit = std::int64_t{1} << 32; // 16 GiB

std::vector<std::uint32_t> draw_successors(std::uint64_t seed, std::int64_t vocabulary) {
    const RandomKey key = random_key(seed, "synthetic successors");
    std::vector<std::uint32_t> successors; // (vocabulary, 4)
    for (std::int64_t token = 0; token < vocabulary; ++token) {
        for (std::int64_t choice = 0; choice < 3; ++choice)
            successors.push_back(static_cast<std::uint32_t>(random_below(
                key, static_cast<std::uint64_t>(token * 3 + choice), static_cast<std::uint64_t>(vocabulary))));
        successors.push_back(static_cast<std::uint32_t>((token + 1) % vocabulary)); // so that every token is reached
    }
    return successors;
}

} // namespace

TokenRuns read_synthetic(const DatasetOptions& options, RecordErrors&) {
    const std::int64_t vocabulary = options.synthetic_vocabulary;
    if (!options.files.empty() || !options.validation_files.empty())
        throw ConfigError("the reader 'synthetic' makes its data itself, but files are given; did you mean 'text'?");
    if (!options.tokenizer_json.empty()) throw ConfigError("the reader 'synthetic' has no use for a tokenizer");
    if (vocabulary < 2 || vocabulary > vocabulary_limit)
        throw ConfigError(
            fmt::format("synthetic_vocabulary is {}, expected from 2 to {}", vocabulary, vocabulary_limit));
    if (options.synthetic_tokens < 2 || options.synthetic_tokens > tokens_limit)
        throw ConfigError(
            fmt::format("synthetic_tokens is {}, expected from 2 to {}", options.synthetic_tokens, tokens_limit));

    const std::vector<std::uint32_t> successors = draw_successors(options.seed, vocabulary);
    const RandomKey key = random_key(options.seed, "synthetic choices");
    auto tokens = std::make_shared<std::vector<std::uint32_t>>(static_cast<std::size_t>(options.synthetic_tokens));
    std::array<std::uint32_t, 4> words{};
    std::uint32_t token = 0;
    for (std::size_t i = 0; i < tokens->size(); ++i) {
        if (i % 32 == 0) words = random_words(key, 0, i / 32); // 128 bits, four for a token
        const std::uint32_t bits = (words[i % 32 / 8] >> (i % 8 * 4)) & 7u;
        const auto choice = static_cast<std::size_t>(bits == 0 ? 3 : std::countr_zero(bits)); // 1/2, 1/4, 1/8, 1/8
        token = successors[token * 4 + choice];
        (*tokens)[i] = token;
    }
    TokenRuns runs;
    runs.vocabulary_size = vocabulary;
    runs.train.push_back({std::span<const std::uint32_t>(*tokens), "synthetic data"});
    runs.memory.push_back(std::move(tokens));
    return runs;
}

} // namespace tessera
