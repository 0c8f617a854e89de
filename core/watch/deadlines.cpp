// SPDX-License-Identifier: Apache-2.0
// The table of the header.
#include "core/watch/deadlines.hpp"

#include <algorithm>

namespace tessera {
namespace {

constexpr double least_of_step = 30, steps_of_median = 10;
constexpr double of_start = 600, least_of_others = 120, least_of_save = 300, of_longest = 5;
constexpr double a_year = 366.0 * 86'400;

double age_of(const RankReport& report) {
    if (report.state.activity != Activity::training) return report.activity_age;
    return report.state.in_step ? report.step_age : report.doing_age;
}

} // namespace

void Deadlines::check_keys(const Config& config) {
    const double seconds = config.get(run_step_timeout);
    if (!(seconds >= 0 && seconds <= a_year))
        config.refuse(run_step_timeout.name, "expected seconds, at most a year of them; 0: by the last steps");
    config.get(run_check_collectives);
}

double Deadlines::deadline_of(const RankReport& report) const {
    const double automatic = std::max(least_of_step, steps_of_median * report.median);
    const double of_step = step_timeout_ > 0 ? step_timeout_ : automatic;
    const double longest = longest_[static_cast<std::size_t>(report.state.activity)];
    switch (report.state.activity) {
    case Activity::training:
        return report.state.steps_timed == 0 ? std::max(of_start, of_step) : of_step;
    case Activity::evaluating: {
        const double by_count = steps_of_median * report.median * static_cast<double>(report.state.expected);
        return std::max({least_of_others, of_step, of_longest * longest, by_count});
    }
    case Activity::saving: { // the last save of a run writes all it has, as those beside training did in their time
        const double whole = static_cast<double>(report.state.longest_save) * 1e-9;
        return std::max({whole > 0 ? least_of_save : of_start, of_step, of_longest * std::max(whole, longest)});
    }
    case Activity::auditing:
        return std::max({least_of_step, of_step, of_longest * longest});
    case Activity::finishing:
        return std::max({least_of_others, of_step, of_longest * longest});
    case Activity::starting:
        break;
    }
    return std::max(of_start, of_step);
}

void Deadlines::judge(RankReport& report, double slept) {
    const double age = age_of(report);
    const bool goes_on = report.state.activity == last_ && age >= last_age_;
    if (!goes_on) {
        double& longest = longest_[static_cast<std::size_t>(last_)];
        longest = std::max(longest, last_age_ - pardoned_);
        pardoned_ = 0;
    }
    pardoned_ += slept;
    last_ = report.state.activity;
    last_age_ = age;
    report.deadline = deadline_of(report);
    report.overdue = age - pardoned_ > report.deadline;
}

} // namespace tessera
