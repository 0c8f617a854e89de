// SPDX-License-Identifier: Apache-2.0
// What a step left behind: loss, gradient norm, what became of tokens in mixtures of experts and, in f16, the loss
// scale; and whether training can go on from it.
#pragma once

#include "core/run/executor.hpp"
#include "core/run/experiment.hpp"
#include "core/run/metrics.hpp"

#include <map>
#include <string>

namespace tessera {

class StepNumbers {
public:
    using Kept = std::map<std::string, std::string>;

    // Once weights and states have started or are restored. All arguments outlive this. `kept`: what to_keep() gave
    // when these were saved; empty where the run begins.
    StepNumbers(const Experiment& experiment, const Executor& executor, const Kept& kept = {});

    // Steps so far that changed nothing: whose gradients were not finite at their loss scale, or that the guard found
    // odd; and those that were given up since.
    std::int64_t skipped_steps() const { return skipped_steps_; }

    // Fills the fields of `record`, whose step is over. Every rank holds the same bits, so that all throw together:
    // DivergedError when loss or gradients are not finite, in f16 only once the loss scale is below 1; with a guard,
    // when it found the step odd and its policy is to stop, or too many were odd in a row.
    void read(StepRecord& record);

    // Whether read() has thrown because training diverged: then all ranks have.
    bool diverged() const { return diverged_; }

    // To be called when states have been restored.
    void restart();

    // What a checkpoint must say of these besides its states; mostly nothing.
    Kept to_keep() const;

private:
    float number_of(ValueId id) const;
    double mean_of(ValueId sum, ValueId by) const; // 0 where nothing counts; no_value: over the units
    [[noreturn]] void end(const std::string& why);
    void judge(StepRecord& record);
    void read_routing(StepRecord& record, double tokens) const;

    const Experiment& experiment_;
    const Executor& executor_;
    float loss_scale_ = -1; // of the next step
    std::int64_t skipped_steps_ = 0;
    std::int64_t odd_in_a_row_ = 0;
    bool diverged_ = false;
};

} // namespace tessera
