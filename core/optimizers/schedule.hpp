// SPDX-License-Identifier: Apache-2.0
// The learning rate as a pure function of the step.
#pragma once

#include "core/config.hpp"

#include <functional>

namespace tessera {

inline constexpr Key<std::string> schedule_type{"lr_scheduler.type", "cosine",
                                                "constant, linear, cosine, cosine_restarts, polynomial, inverse_sqrt, "
                                                "step, exponential, one_cycle, wsd or plateau"};
inline constexpr Key<std::int64_t> schedule_warmup{
    "lr_scheduler.warmup_steps", 100, "steps over which the rate rises: linearly, one_cycle's like a cosine"};
inline constexpr Key<std::int64_t> schedule_decay_steps{"lr_scheduler.decay_steps", 0,
                                                        "step at which the lowest rate is reached; 0: training.steps"};
inline constexpr Key<double> schedule_decay_ratio{"lr_scheduler.decay_ratio", 0.1,
                                                  "wsd: the share of the run in which the rate falls, linearly"};
inline constexpr Key<double> schedule_min_factor{"lr_scheduler.min_lr_factor", 0.1,
                                                 "lowest rate as a factor of optimizer.lr"};
inline constexpr Key<double> schedule_power{"lr_scheduler.power", 1.0, "polynomial: the exponent"};
inline constexpr Key<double> schedule_gamma{"lr_scheduler.gamma", 0.1,
                                            "step, exponential: the rate's factor for each step_size steps"};
inline constexpr Key<std::int64_t> schedule_step_size{"lr_scheduler.step_size", 1000,
                                                      "step, exponential: steps that one factor gamma takes"};
inline constexpr Key<std::int64_t> schedule_timescale{
    "lr_scheduler.timescale", 0, "inverse_sqrt: steps after warm-up until the rate is 1/sqrt(2); 0: warmup_steps"};
inline constexpr Key<std::int64_t> schedule_restart_interval{"lr_scheduler.restart_interval", 1000,
                                                             "cosine_restarts: steps of the first cosine"};
inline constexpr Key<double> schedule_restart_factor{
    "lr_scheduler.restart_factor", 1.0, "cosine_restarts: each cosine lasts so many times as long as the one before"};
inline constexpr Key<double> schedule_start_factor{"lr_scheduler.start_factor", 0.04,
                                                   "one_cycle: the rate at step 0 as a factor of optimizer.lr"};

// step t from 0, warm-up W, end D, peak r, lowest m:
//   t < W            r (t + 1) / (W + 1)
//   constant         r                         linear   r + (m - r) p      p = (t - W) / (D - W), at most 1
//   cosine           m + (r - m) (1 + cos(pi p)) / 2
//   polynomial       m + (r - m) (1 - p)^power
//   wsd              r until D (1 - decay_ratio), then linear to m at D
//   step             r gamma^floor((t - W) / step_size)                  exponential: without floor
//   inverse_sqrt     r / sqrt(1 + (t - W) / timescale)                   (Vaswani et al. 2017, from the peak on)
//   cosine_restarts  cosine from r to m over restart_interval steps, then anew, each restart_factor times as long
//                    (SGDR, Loshchilov and Hutter 2017)
//   plateau          r, times what falls where the validation loss does (run/validation_watch.hpp)
//   one_cycle        m' + (r - m') (1 - cos(pi t / W)) / 2 with m' = r start_factor up to W, then cosine (Smith and
//   Topin
//                    2018, as torch's OneCycleLR; the momentum stays what it is)
class Schedule {
public:
    // Reads the keys of its type only, so that another one's key counts as unread. Throws ConfigError for a wrong
    // value.
    Schedule(const Config& config, double peak_rate, std::int64_t steps);
    double rate(std::int64_t step) const;

private:
    using Rate = std::function<double(double step)>;

    double warmup_;
    Rate rising_, after_;
};

} // namespace tessera
