// SPDX-License-Identifier: Apache-2.0
// The stages of a ramp, counted once.
#include "core/run/batch_ramp.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <limits>

namespace tessera {
namespace {

constexpr std::int64_t no_end = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t most_samples = std::int64_t{1} << 56;
constexpr std::size_t most_told = 8;

} // namespace

BatchRamp::BatchRamp(std::int64_t batch) : stages_{{0, no_end, batch, 0}} {}

BatchRamp::BatchRamp(std::int64_t start, std::int64_t increment, std::int64_t samples, std::int64_t global) {
    const std::int64_t parts = (global - start) / increment;
    std::int64_t step = 0, sample = 0;
    for (std::int64_t part = 0; part < parts; ++part) {
        const std::int64_t batch = start + part * increment;
        // The part ends at sample (part + 1) * samples / parts, without rounding: counted in parts of a sample.
        const std::int64_t left = (part + 1) * samples - sample * parts;
        if (left <= 0) continue; // one step took more than this part
        const std::int64_t steps = (left - 1) / (batch * parts) + 1;
        stages_.push_back({step, step + steps, batch, sample});
        step += steps;
        sample += steps * batch;
    }
    stages_.push_back({step, no_end, global, sample});
}

const BatchStage& BatchRamp::stage_of(std::int64_t step) const {
    const auto found = std::ranges::find_if(stages_, [&](const BatchStage& stage) { return step < stage.end_step; });
    return found == stages_.end() ? stages_.back() : *found;
}

std::int64_t BatchRamp::samples_before(std::int64_t step) const {
    const BatchStage& stage = stage_of(step);
    return stage.first_sample + (step - stage.first_step) * stage.batch;
}

std::string BatchRamp::text() const {
    std::string text;
    for (std::size_t i = 0; i + 1 < stages_.size(); ++i)
        if (i + 2 == stages_.size() || i < most_told)
            text += i == 0 ? fmt::format("{} samples in steps 1 to {}", stages_[i].batch, stages_[i].end_step)
                           : fmt::format(", {}{} to step {}", i > most_told ? "…, " : "", stages_[i].batch,
                                         stages_[i].end_step);
    return fmt::format("{}, then {}", text, stages_.back().batch);
}

BatchRamp batch_ramp(const Config& config, const Batch& largest) {
    const std::vector<std::int64_t> said = config.get(training_batch_ramp);
    if (said.empty()) return BatchRamp(largest.global);
    const auto refuse = [&](const std::string& why) { config.refuse(training_batch_ramp.name, why); };
    if (said.size() != 3) refuse("expected three numbers: [start, increment, samples]");
    const std::int64_t start = said[0], increment = said[1], samples = said[2];
    if (start < 1 || increment < 1 || samples < 1 || samples > most_samples / std::max(largest.global, increment))
        refuse("start, increment and samples must be at least 1, and samples no more than there can be");
    if (!largest.fixed_micro_batch || config.get(training_accumulation) != 0)
        refuse("the number of micro-batches grows with the batch: say training.local_batch_size, and not "
               "training.gradient_accumulation_steps");
    if (start > largest.global || (largest.global - start) % increment != 0)
        refuse(fmt::format("from {} on, increments of {} never come to training.global_batch_size = {}", start,
                           increment, largest.global));
    if (start % largest.micro_batch != 0 || increment % largest.micro_batch != 0)
        refuse(fmt::format("start and increment must be multiples of training.local_batch_size = {}",
                           largest.micro_batch));
    return {start, increment, samples, largest.global};
}

} // namespace tessera
