// SPDX-License-Identifier: Apache-2.0
// A machine for tests of the cost model.
#pragma once

#include "core/cost/machine.hpp"
#include "core/run/prediction.hpp"
#include "tests/core/tiny_gpt.hpp"

namespace tessera {

// Binary numbers, so that sums come out as they should.
inline constexpr const char* machine_text = R"(
    [rank]
    f32_flops = 1024e9
    bf16_flops = 2048e9
    attention_efficiency = 0.5
    memory_bandwidth = 64e9
    memory_gib = 1
    [node]
    ranks = 4
    alpha = 1e-6
    beta = 8e9
    all_reduce_beta = 16e9
    [network]
    alpha = 4e-6
    beta = 1e9
)";

inline Machine machine() { return parse_machine(machine_text, "machine.toml"); }

inline Prediction predict_tiny(const std::vector<std::string>& words, int rank, int ranks, const Machine& on) {
    const Config config = tiny_config(words);
    const auto dataset = tiny_dataset(config);
    const Stream stream = CpuStream(1);
    const TrainingPlans plans(config, ranks, true, dataset.get(), stream);
    return predict(plans.of(rank), plans, rank, on);
}

} // namespace tessera
