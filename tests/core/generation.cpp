// SPDX-License-Identifier: Apache-2.0
// Sampling a token from logits, and continuing a prompt token by token.
#include "core/run/generation.hpp"
#include "core/run/weights.hpp"
#include "kernels/error.hpp"
#include "tests/core/graph_run.hpp"
#include "tests/core/tiny_gpt.hpp"

#include <cmath>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <numeric>
#include <set>

using namespace tessera;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

const std::vector<float> logits{0.5f, 2.0f, -1.0f, 1.0f, 2.0f};

// softmax(logits / temperature) of the tokens in `among`.
std::vector<double> chances(double temperature, const std::set<int>& among) {
    std::vector<double> weights(logits.size());
    for (const int token : among)
        weights[static_cast<std::size_t>(token)] = std::exp(logits[static_cast<std::size_t>(token)] / temperature);
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (double& weight : weights)
        weight /= sum;
    return weights;
}

// Draws at evenly spread points: the share of each token is its chance but for one point at each border.
void expect_distribution(double temperature, std::int64_t top_k, const std::vector<double>& expected) {
    constexpr int points = 100000;
    std::vector<int> drawn(logits.size());
    for (int i = 0; i < points; ++i)
        ++drawn[static_cast<std::size_t>(sample_token(logits, temperature, top_k, (i + 0.5) / points))];
    for (std::size_t token = 0; token < drawn.size(); ++token)
        EXPECT_NEAR(drawn[token], expected[token] * points, 2) << "token " << token;
}

// A tiny GPT with its initial weights, which are made large enough to have opinions.
struct Generator {
    explicit Generator(const std::vector<std::string>& more = {}, std::int64_t vocabulary = 20)
        : config(tiny_config([&] {
              std::vector<std::string> all{"model.init_std=0.5"};
              all.insert(all.end(), more.begin(), more.end());
              return all;
          }())),
          experiment(plan_generation(config, vocabulary, stream)), groups(experiment.generate.layout.mesh),
          memory(experiment.memory, experiment.generate.layout, groups, stream),
          executor(experiment.generate.layout, experiment.generate.plan, memory, groups, stream) {
        initialize_weights(experiment.generate, executor, 3);
    }

    std::vector<std::int32_t> continued(const std::vector<std::int32_t>& prompt, const SamplingOptions& options) {
        std::vector<std::int32_t> tokens;
        generate(experiment, executor, prompt, options, [&](std::int32_t token) { tokens.push_back(token); });
        return tokens;
    }

    // The most likely next token by a plain run of the graph on the last tokens of `text`.
    std::int32_t most_likely(const std::vector<std::int32_t>& text) {
        const Model& model = experiment.generate.model;
        GraphRun run(model.graph);
        for (const ValueId id : model.graph.of_kind(ValueKind::parameter))
            std::memcpy(run[id].view().memory(), executor.view(id).data, static_cast<std::size_t>(run[id].bytes()));
        const std::size_t window = std::min<std::size_t>(text.size(), 12);
        for (std::size_t i = 0; i < window; ++i)
            run[model.inputs[0]].set(static_cast<std::int64_t>(i), text[text.size() - window + i]);
        run.run({});
        std::int32_t best = 0;
        const auto row = static_cast<std::int64_t>(window - 1) * model.graph.value(model.logits).type.shape[-1];
        for (std::int32_t token = 1; token < experiment.sizes.sample.classes; ++token)
            if (run[model.logits][row + token] > run[model.logits][row + best]) best = token;
        return best;
    }

    Stream stream = CpuStream(1);
    Config config;
    Experiment experiment;
    Groups groups;
    Memory memory;
    Executor executor;
};

std::vector<std::int32_t> long_prompt() { // longer than the window of 12
    std::vector<std::int32_t> prompt;
    for (std::int32_t i = 0; i < 30; ++i)
        prompt.push_back(i * 7 % 20);
    return prompt;
}

} // namespace

TEST(SampleToken, WithoutTemperatureIsTheFirstMostLikely) {
    for (const double uniform : {0.0, 0.3, 0.999}) {
        EXPECT_EQ(sample_token(logits, 0, 0, uniform), 1);
        EXPECT_EQ(sample_token(logits, 0, 3, uniform), 1);
    }
}

TEST(SampleToken, FollowsTheSoftmax) {
    expect_distribution(1, 0, chances(1, {0, 1, 2, 3, 4}));
    expect_distribution(0.5, 0, chances(0.5, {0, 1, 2, 3, 4}));
    expect_distribution(4, 0, chances(4, {0, 1, 2, 3, 4}));
}

TEST(SampleToken, TopKLeavesOutTheRest) {
    expect_distribution(1, 1, chances(1, {1})); // of equals the first
    expect_distribution(1, 2, chances(1, {1, 4}));
    expect_distribution(1, 3, chances(1, {1, 3, 4}));
    expect_distribution(2, 5, chances(2, {0, 1, 2, 3, 4}));
    expect_distribution(2, 50, chances(2, {0, 1, 2, 3, 4}));
}

TEST(SampleToken, TakesLargeLogits) {
    const std::vector<float> large{1000.0f, 999.0f, -1000.0f};
    EXPECT_EQ(sample_token(large, 1, 0, 0.5), 0);
    EXPECT_EQ(sample_token(large, 1, 0, 0.8), 1); // e / (1 + e) = 0.731
    EXPECT_EQ(sample_token(large, 1, 0, 0.9999999), 1);
}

TEST(Generation, TheSameSeedGivesTheSameText) {
    Generator generator;
    const std::vector<std::int32_t> first = generator.continued({3, 4}, {.tokens = 40, .seed = 8});
    EXPECT_EQ(first.size(), 40);
    EXPECT_EQ(generator.continued({3, 4}, {.tokens = 40, .seed = 8}), first);
    EXPECT_EQ(Generator().continued({3, 4}, {.tokens = 40, .seed = 8}), first);
    EXPECT_NE(generator.continued({3, 4}, {.tokens = 40, .seed = 9}), first);
    for (const std::int32_t token : first)
        EXPECT_TRUE(token >= 0 && token < 20) << token;
}

TEST(Generation, TakesTheMostLikelyTokenOfEachWindow) {
    for (const std::vector<std::string>& more :
         {std::vector<std::string>{}, {"training.dtype=bf16", "model.bias=true"}}) {
        Generator generator(more, more.empty() ? 20 : 4100); // whose table has padding
        for (std::vector<std::int32_t> text : {std::vector<std::int32_t>{5}, {1, 2, 3}, long_prompt()}) {
            const auto tokens = generator.continued(text, {.tokens = 20, .temperature = 0}); // past the window's end
            for (const std::int32_t token : tokens) {
                EXPECT_EQ(token, generator.most_likely(text)) << "after " << text.size() << " tokens";
                text.push_back(token);
            }
            EXPECT_GT(std::set<std::int32_t>(tokens.begin(), tokens.end()).size(), 1); // not one for all
        }
    }
}

TEST(Generation, SeesTheLastWindowOnly) {
    Generator generator;
    const std::vector<std::int32_t> prompt = long_prompt();
    const SamplingOptions options{.tokens = 25, .seed = 4};
    EXPECT_EQ(generator.continued(prompt, options), generator.continued({prompt.end() - 12, prompt.end()}, options));
    EXPECT_NE(generator.continued(prompt, options), generator.continued({prompt.end() - 3, prompt.end()}, options));
}

TEST(Generation, DropsNothingAndRefusesAnEmptyPrompt) {
    Generator generator;
    EXPECT_EQ(generator.continued({1}, {.tokens = 0}).size(), 0);
    EXPECT_EQ(Generator({"model.dropout=0.5"}).continued({1}, {.tokens = 9, .temperature = 0}),
              generator.continued({1}, {.tokens = 9, .temperature = 0}));
    EXPECT_THAT([&] { generator.continued({}, {.tokens = 1}); },
                ThrowsMessage<ConfigError>(HasSubstr("prompt is empty")));
}
