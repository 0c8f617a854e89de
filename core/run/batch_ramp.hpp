// SPDX-License-Identifier: Apache-2.0
// A global batch that grows: which steps have which size, and so which samples.
#pragma once

#include "core/run/batch.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

inline constexpr Key<std::vector<std::int64_t>> training_batch_ramp{
    "training.batch_size_ramp", "",
    "[start, increment, samples]: the global batch grows from start, over so many samples; []: it does not"};

// Steps [first_step, end_step) take `batch` samples each, from number `first_sample` of the run on.
struct BatchStage {
    std::int64_t first_step = 0, end_step = 0;
    std::int64_t batch = 0;
    std::int64_t first_sample = 0;
    bool operator==(const BatchStage&) const = default;
};

// Stages one after the other; without a ramp one. The last goes on for ever.
class BatchRamp {
public:
    // One of this batch alone.
    explicit BatchRamp(std::int64_t batch = 1);
    // As Megatron-LM's --rampup-batch-size: each of the (global - start) / increment sizes below `global` is that of
    // the steps which begin in its equal part of the first `samples` samples.
    BatchRamp(std::int64_t start, std::int64_t increment, std::int64_t samples, std::int64_t global);

    const std::vector<BatchStage>& stages() const { return stages_; }
    const BatchStage& stage_of(std::int64_t step) const; // step >= 0
    std::int64_t samples_before(std::int64_t step) const;
    bool grows() const { return stages_.size() > 1; }

    // "4 samples in steps 1 to 10, 8 to step 15, then 12", of many stages a few.
    std::string text() const;

private:
    std::vector<BatchStage> stages_;
};

// Of a run whose largest batch is this. Throws ConfigError for numbers that do not fit it.
BatchRamp batch_ramp(const Config& config, const Batch& largest);

} // namespace tessera
