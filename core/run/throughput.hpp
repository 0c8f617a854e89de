// SPDX-License-Identifier: Apache-2.0
// How fast the steps go: tokens or samples and operations per second of all ranks, their share of the machine's peak;
// and where the ranks' time goes.
#pragma once

#include "core/log.hpp"
#include "core/run/experiment.hpp"
#include "core/run/ground.hpp"
#include "core/run/metrics.hpp"
#include "core/run/step_times.hpp"

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
    // Fills the fields of time and speed for the step that just ended. Steps that are logged tell the ranks' times
    // since the last one that was: one exchange. Called by all ranks together.
    void measure(StepRecord& record, Waited so_far);
    void restart();

    // Logs where the time of the whole run went, and which ranks were slow. Called by all ranks together.
    void report(Log& log);

private:
    using Clock = std::chrono::steady_clock;

    void name_axes(const Mesh& mesh);
    StepTimes gather();

    double flops_per_step_; // of the model, over all ranks
    double units_per_step_;
    double peak_flops_; // kernels/peak.hpp, of all ranks; NaN: unknown
    Ground ground_;
    bool waits_for_stages_; // and not its GPU
    std::int64_t log_every_;
    std::vector<RankOfPeers> places_; // by rank; on rank 0
    StepTimes whole_run_;
    std::vector<std::size_t> counted_; // the recorder's axes that have several ranks, as whole_run_.axes names them
    std::int64_t steps_ = 0;           // since the last gather()
    bool measured_ = false;            // a step
    Waited waited_;
    double waited_before_ = 0; // for input, until the last gather()
    Clock::time_point before_ = Clock::now();
    TimeAccount account_;
};

} // namespace tessera
