// SPDX-License-Identifier: Apache-2.0
// The learning rate as a pure function of the step.
#pragma once

#include "core/config.hpp"

namespace tessera {

inline constexpr Key<std::string> schedule_type{"lr_scheduler.type", "cosine",
                                                "after warm-up: constant, linear, cosine or wsd (stable, then decay)"};
inline constexpr Key<std::int64_t> schedule_warmup{"lr_scheduler.warmup_steps", 100,
                                                   "steps over which the rate rises linearly"};
inline constexpr Key<std::int64_t> schedule_decay_steps{"lr_scheduler.decay_steps", 0,
                                                        "step at which the lowest rate is reached; 0: training.steps"};
inline constexpr Key<double> schedule_decay_ratio{"lr_scheduler.decay_ratio", 0.1,
                                                  "wsd: the share of the run in which the rate falls, linearly"};
inline constexpr Key<double> schedule_min_factor{"lr_scheduler.min_lr_factor", 0.1,
                                                 "lowest rate as a factor of optimizer.lr"};

// step t from 0, warm-up W, end D, peak r, lowest m:
//   t < W       r (t + 1) / (W + 1)
//   constant    r                         linear   r + (m - r) p          p = (t - W) / (D - W), at most 1
//   cosine      m + (r - m) (1 + cos(pi p)) / 2
//   wsd         r until D (1 - decay_ratio), then linear to m at D
class Schedule {
public:
    Schedule(const Config& config, double peak_rate, std::int64_t steps);
    double rate(std::int64_t step) const;

private:
    enum class Type { constant, cosine, linear, wsd };

    Type type_;
    double peak_;
    double lowest_;
    double decay_ratio_ = 0;
    std::int64_t warmup_;
    std::int64_t end_;
};

} // namespace tessera
