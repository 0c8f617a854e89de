// SPDX-License-Identifier: Apache-2.0
// Generation by whole windows: attention is causal, so what stands behind the last token does not matter. A recurrent
// model has a window of one token, and its state goes on from each to the next.
#include "core/run/generation.hpp"

#include "core/run/host_copy.hpp"
#include "kernels/copy.hpp"
#include "kernels/error.hpp"
#include "kernels/random.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <numeric>
#include <optional>

namespace tessera {

std::int32_t sample_token(std::span<const float> logits, double temperature, std::int64_t top_k, double uniform) {
    std::vector<std::int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
        return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
    });
    if (temperature <= 0) return order[0];
    if (top_k > 0 && top_k < static_cast<std::int64_t>(order.size())) order.resize(static_cast<std::size_t>(top_k));
    std::vector<double> weights;
    for (const std::int32_t token : order)
        weights.push_back(std::exp((static_cast<double>(logits[static_cast<std::size_t>(token)]) -
                                    logits[static_cast<std::size_t>(order[0])]) /
                                   temperature));
    double left = uniform * std::accumulate(weights.begin(), weights.end(), 0.0);
    for (std::size_t i = 0; i < order.size(); ++i) {
        left -= weights[i];
        if (left < 0) return order[i];
    }
    return order.back();
}

namespace {

// The model of one window, run again and again.
class Window {
public:
    Window(const Experiment& experiment, Executor& executor)
        : executor_(executor), logits_(executor.view(experiment.generate.model.logits)),
          tokens_(executor.stream(), executor.view(experiment.generate.model.inputs.back())),
          size_(static_cast<std::size_t>(experiment.sizes.sample.units)), vocabulary_(experiment.sizes.sample.classes) {
        executor_.prepare({});
        if (experiment.generate.model.inputs.size() > 1)
            source_.emplace(executor.stream(), executor.view(experiment.generate.model.inputs[0]));
    }

    // What an encoder-decoder reads: as many tokens as were planned.
    void read_source(std::span<const std::int32_t> tokens) {
        if (!source_ || source_->view().count() != static_cast<std::int64_t>(tokens.size()))
            throw InternalError("generation: a source of another size than was planned");
        source_tokens_.assign(tokens.begin(), tokens.end());
    }

    std::size_t size() const { return size_; }

    // `state`: its step is the place of the last token, from which a recurrent model knows where it begins.
    void run(std::span<const std::int32_t> tokens, const StepState& state = {}) {
        executor_.run_micro_batches(state, 1, [&] {
            auto* ids = tokens_.view().as<std::int32_t>();
            std::fill_n(ids, size_, 0);
            std::copy(tokens.begin(), tokens.end(), ids);
            tokens_.store();
            if (!source_) return;
            std::ranges::copy(source_tokens_, source_->view().as<std::int32_t>()); // its memory serves others, too
            source_->store();
        });
        executor_.update(state);
    }

    // Of the last run, behind the token at `place`.
    void read(std::size_t place, float* row) const {
        auto* from = static_cast<std::byte*>(logits_.memory()) +
                     place * static_cast<std::size_t>(logits_.shape[-1] * bytes_of(logits_.dtype));
        const Shape shape{vocabulary_};
        HostCopy copy(executor_.stream(), View(from, shape, logits_.dtype));
        copy.load();
        CpuStream host;
        kernels::cast(host, copy.view(), View(row, shape, DType::f32));
    }

private:
    Executor& executor_;
    View logits_;
    HostCopy tokens_;
    std::optional<HostCopy> source_;
    std::vector<std::int32_t> source_tokens_;
    std::size_t size_;
    std::int64_t vocabulary_;
};

void check_tokens(std::span<const std::int32_t> tokens, std::int64_t vocabulary) {
    for (const std::int32_t token : tokens)
        if (token < 0 || token >= vocabulary)
            throw ConfigError(fmt::format("the prompt has token {}, the vocabulary {} tokens", token, vocabulary));
}

} // namespace

void generate(const Experiment& experiment, Executor& executor, std::vector<std::int32_t> prompt,
              const SamplingOptions& options, const std::function<void(std::int32_t)>& take) {
    if (prompt.empty()) throw ConfigError("the prompt is empty: generation continues at least one token");
    check_tokens(prompt, experiment.sizes.sample.classes);
    Window window(experiment, executor);
    std::vector<float> row(static_cast<std::size_t>(experiment.sizes.sample.classes));
    const RandomKey key = random_key(options.seed, "generate");
    std::size_t seen = 0; // tokens of the prompt
    const auto see = [&](std::size_t end) {
        const std::size_t count = std::min(window.size(), end);
        window.run(std::span(prompt).subspan(end - count, count), {.step = static_cast<std::int64_t>(end) - 1});
        seen = end;
    };
    for (std::int64_t i = 0; i < options.tokens; ++i) {
        while (experiment.sizes.streams > 0 && seen + 1 < prompt.size())
            see(seen + 1);
        see(prompt.size());
        window.read(std::min(window.size(), prompt.size()) - 1, row.data());
        prompt.push_back(
            sample_token(row, options.temperature, options.top_k, random_uniform(key, static_cast<std::uint64_t>(i))));
        take(prompt.back());
    }
}

void answer(const Experiment& experiment, Executor& executor, std::span<const std::int32_t> source,
            const SamplingOptions& options, std::int32_t end, const std::function<void(std::int32_t)>& take) {
    check_tokens(source, experiment.sizes.sample.classes);
    Window window(experiment, executor);
    window.read_source(source);
    std::vector<float> row(static_cast<std::size_t>(experiment.sizes.sample.classes));
    const RandomKey key = random_key(options.seed, "generate");
    const std::size_t most = std::min(static_cast<std::size_t>(options.tokens), window.size());
    for (std::vector<std::int32_t> written; written.size() < most;) {
        window.run(written);
        window.read(written.size(), row.data());
        written.push_back(sample_token(row, options.temperature, options.top_k, random_uniform(key, written.size())));
        if (written.back() == end) return;
        take(written.back());
    }
}

std::vector<float> logits_of_answer(const Experiment& experiment, Executor& executor,
                                    std::span<const std::int32_t> source, std::span<const std::int32_t> targets) {
    const auto vocabulary = static_cast<std::size_t>(experiment.sizes.sample.classes);
    for (const auto& tokens : {source, targets})
        check_tokens(tokens, experiment.sizes.sample.classes);
    Window window(experiment, executor);
    if (targets.size() != window.size()) throw InternalError("generation: other targets than were planned");
    window.read_source(source);
    window.run(targets);
    std::vector<float> logits(targets.size() * vocabulary);
    for (std::size_t place = 0; place < targets.size(); ++place)
        window.read(place, logits.data() + place * vocabulary);
    return logits;
}

std::vector<float> logits_of(const Experiment& experiment, Executor& executor, std::span<const std::int32_t> tokens) {
    const auto vocabulary = static_cast<std::size_t>(experiment.sizes.sample.classes);
    check_tokens(tokens, experiment.sizes.sample.classes);
    Window window(experiment, executor);
    const bool one_by_one = experiment.sizes.streams > 0;
    if (tokens.empty() || (!one_by_one && tokens.size() > window.size()))
        throw ConfigError(fmt::format("{} tokens, the model takes 1 to {} at once", tokens.size(), window.size()));
    if (!one_by_one) window.run(tokens);
    std::vector<float> logits(tokens.size() * vocabulary);
    for (std::size_t place = 0; place < tokens.size(); ++place) {
        if (one_by_one) window.run(tokens.subspan(place, 1), {.step = static_cast<std::int64_t>(place)});
        window.read(one_by_one ? 0 : place, logits.data() + place * vocabulary);
    }
    return logits;
}

} // namespace tessera
