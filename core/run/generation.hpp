// SPDX-License-Identifier: Apache-2.0
// Sampling from a language model, token by token.
#pragma once

#include "core/run/executor.hpp"
#include "core/run/experiment.hpp"

#include <functional>
#include <span>

namespace tessera {

struct SamplingOptions {
    std::int64_t tokens = 200;
    double temperature = 1; // 0: always the most likely token
    std::int64_t top_k = 0; // only the k most likely tokens; 0: all
    std::uint64_t seed = 1;
};

// Continues `prompt` (at least one token) and hands over each new token. The model sees the last sequence_length
// tokens, a recurrent one all of them, one after the other; each token is drawn by a function of seed and position
// alone.
void generate(const Experiment& experiment, Executor& executor, std::vector<std::int32_t> prompt,
              const SamplingOptions& options, const std::function<void(std::int32_t)>& take);

// The same of an encoder-decoder, which answers `source` (all that it reads) until `end` (-1: never), which is not handed
// over, or options.tokens; no more than were planned.
void answer(const Experiment& experiment, Executor& executor, std::span<const std::int32_t> source,
            const SamplingOptions& options, std::int32_t end, const std::function<void(std::int32_t)>& take);
// Of what it writes, each token's logits, given those before: (targets, vocabulary), row-major.
std::vector<float> logits_of_answer(const Experiment& experiment, Executor& executor,
                                    std::span<const std::int32_t> source, std::span<const std::int32_t> targets);

// The logits that follow each of `tokens`, of which there are at most a window: (tokens, vocabulary), row-major.
std::vector<float> logits_of(const Experiment& experiment, Executor& executor, std::span<const std::int32_t> tokens);

// The token that `uniform`, in [0, 1), draws from softmax(logits / temperature) restricted to the k most likely.
std::int32_t sample_token(std::span<const float> logits, double temperature, std::int64_t top_k, double uniform);

} // namespace tessera
