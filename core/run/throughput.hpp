// SPDX-License-Identifier: Apache-2.0
// How fast the steps go: tokens or samples and operations per second of all ranks, and their share of the machine's
// peak.
#pragma once

#include "core/run/experiment.hpp"
#include "core/run/ground.hpp"
#include "core/run/metrics.hpp"

#include <chrono>

namespace tessera {

class Throughput {
public:
    // Asks for the peak of all ranks at once, which takes CPUs some hundredths of a second. Called by all ranks
    // together.
    Throughput(const Experiment& experiment, const Ground& ground);

    // What this rank has waited for so far, in seconds.
    struct Waited {
        double for_input = 0;
        double for_stages = 0;
        double for_weights = 0;
    };
    // Fills the fields of time and speed for the step that just ended. Called by all ranks together.
    void measure(StepRecord& record, Waited so_far);
    void restart();

private:
    using Clock = std::chrono::steady_clock;

    double flops_per_step_; // of the model, over all ranks
    double units_per_step_;
    double peak_flops_; // kernels/peak.hpp, of all ranks; NaN: unknown
    Ground ground_;
    bool waits_for_stages_; // and not its GPU
    Waited waited_;
    Clock::time_point before_ = Clock::now();
};

} // namespace tessera
