// SPDX-License-Identifier: Apache-2.0
// Generation by whole windows: attention is causal, so what stands behind the last token does not matter.
#include "core/run/generation.hpp"

#include "core/run/host_copy.hpp"
#include "kernels/copy.hpp"
#include "kernels/error.hpp"
#include "kernels/random.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

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

void generate(const Experiment& experiment, Executor& executor, std::vector<std::int32_t> prompt,
              const SamplingOptions& options, const std::function<void(std::int32_t)>& take) {
    if (prompt.empty()) throw ConfigError("the prompt is empty: generation continues at least one token");
    const Model& model = experiment.generate.model;
    const auto window = static_cast<std::size_t>(experiment.sizes.sample.units);
    const auto vocabulary = static_cast<std::size_t>(experiment.sizes.sample.classes);
    HostCopy tokens(executor.stream(), executor.view(model.inputs[0]));
    const View logits = executor.view(model.logits);
    std::vector<float> row(vocabulary);
    const RandomKey key = random_key(options.seed, "generate");
    const auto next_batch = [&] {
        const std::size_t count = std::min(window, prompt.size());
        auto* ids = tokens.view().as<std::int32_t>();
        std::fill_n(ids, window, 0);
        std::copy(prompt.end() - static_cast<std::ptrdiff_t>(count), prompt.end(), ids);
        tokens.store();
    };
    CpuStream host;
    executor.prepare({});
    for (std::int64_t i = 0; i < options.tokens; ++i) {
        executor.run_micro_batches({}, 1, next_batch);
        const std::size_t last = std::min(window, prompt.size()) - 1;
        auto* from = static_cast<std::byte*>(logits.memory()) +
                     last * static_cast<std::size_t>(logits.shape[-1] * bytes_of(logits.dtype));
        const Shape shape{experiment.sizes.sample.classes};
        HostCopy last_row(executor.stream(), View(from, shape, logits.dtype));
        last_row.load();
        kernels::cast(host, last_row.view(), View(row.data(), shape, DType::f32));
        prompt.push_back(
            sample_token(row, options.temperature, options.top_k, random_uniform(key, static_cast<std::uint64_t>(i))));
        take(prompt.back());
    }
}

} // namespace tessera
