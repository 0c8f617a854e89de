// SPDX-License-Identifier: Apache-2.0
// How long a rank may be at what it is at before it is taken for stalled. Pure but for what it has seen before.
#pragma once

#include "core/config.hpp"
#include "core/watch/stall_report.hpp"

namespace tessera {

inline constexpr Key<double> run_step_timeout{
    "run.step_timeout", 0.0,
    "seconds after which a step that has not ended is a stall; 0: 10 times the median of the last steps, at least 30"};
inline constexpr Key<bool> run_check_collectives{"run.check_collectives", false,
                                                 "ranks compare name, kind, shape and dtype before each collective: "
                                                 "slow, finds one that not all ranks take part in"};

// What a rank's watchdog knows of time. Seconds.
//   a step             run.step_timeout, or max(30, 10 x median of the last 64); the first of a run: at least 600
//   between two steps  the same
//   a save             max(300, 5 x the longest so far, from its begin to its end on the disk), as a shared file system
//                      may hang for minutes; the first of a run: at least 600
//   an evaluation      max(120, 5 x the longest so far, 10 x the median step for each micro-batch)
//   an audit           max(30, 5 x the longest so far): it reads what a step reads
//   the end            max(120, 5 x the longest so far)
//   the start          600, each of its parts
// None but a step's is below run.step_timeout.
class Deadlines {
public:
    // Reads the keys above. Throws ConfigError for a wrong value.
    static void check_keys(const Config& config);

    explicit Deadlines(double step_timeout) : step_timeout_(step_timeout) {}

    // Fills overdue and deadline. Called again and again, with the rank's own report: remembers how long it was at
    // what. `slept`: seconds for which this process itself did not run (a suspended job), which count for nobody.
    void judge(RankReport& report, double slept);

private:
    double deadline_of(const RankReport& report) const;

    double step_timeout_;
    Activity last_ = Activity::starting;
    double last_age_ = 0;
    double longest_[6] = {}; // by activity
    double pardoned_ = 0;    // of the present age
};

} // namespace tessera
