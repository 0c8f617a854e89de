// SPDX-License-Identifier: Apache-2.0
// A few steps of the tiny GPT on ranks that are threads, and what they leave, bit by bit.
#pragma once

#include "tests/core/tiny_training.hpp"

#include <gtest/gtest.h>

namespace tessera {

struct TrainingRecord {                                // of a rank
    std::vector<std::uint32_t> losses, norms, weights; // bits
    friend bool operator==(const TrainingRecord&, const TrainingRecord&) = default;
};

// Five steps. `poisoned`: what a step must not read holds NaNs.
inline std::vector<TrainingRecord> train_on(int ranks, const std::vector<std::string>& words, bool poisoned = false,
                                            int threads = 1) {
    constexpr int steps = 5;
    std::vector<TrainingRecord> records(static_cast<std::size_t>(ranks));
    run_as_threads(ranks, [&](Communicator& communicator) {
        TinyTraining training(words, communicator, CpuStream(threads));
        TrainingRecord& record = records[static_cast<std::size_t>(communicator.rank())];
        for (int step = 0; step < steps; ++step) {
            poisoned ? training.poisoned_step(step) : training.step(step);
            record.losses.push_back(training.loss());
            record.norms.push_back(training.norm());
        }
        record.weights = training.weights();
    });
    return records;
}

inline void expect_near(const std::vector<std::uint32_t>& found, const std::vector<std::uint32_t>& expected,
                        double relative) {
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
        const double one = std::bit_cast<float>(expected[i]);
        EXPECT_NEAR(std::bit_cast<float>(found[i]), one, relative * one) << "step " << i;
    }
}

} // namespace tessera
