// SPDX-License-Identifier: Apache-2.0
// Warm-up, then constant, linear, cosine or stable-then-decay.
#include "core/optimizers/schedule.hpp"

#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tessera {

Schedule::Schedule(const Config& config, double peak_rate, std::int64_t steps)
    : type_(Type::constant), peak_(peak_rate), lowest_(peak_rate * config.get(schedule_min_factor)),
      warmup_(config.get(schedule_warmup)), end_(config.get(schedule_decay_steps)) {
    const std::string name = config.get(schedule_type);
    const std::vector<std::string_view> names{"constant", "cosine", "linear", "wsd"};
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) config.refuse(schedule_type.name, no_such_name("schedule", name, names));
    type_ = static_cast<Type>(found - names.begin());
    if (warmup_ < 0) config.refuse(schedule_warmup.name, "must be at least 0");
    if (end_ < 0) config.refuse(schedule_decay_steps.name, "must be at least 0");
    if (end_ == 0) end_ = steps;
    if (type_ == Type::wsd) {
        decay_ratio_ = config.get(schedule_decay_ratio);
        if (!(decay_ratio_ >= 0 && decay_ratio_ <= 1)) config.refuse(schedule_decay_ratio.name, "must be in [0, 1]");
    }
    if (!(lowest_ >= 0)) config.refuse(schedule_min_factor.name, "must be at least 0");
}

double Schedule::rate(std::int64_t step) const {
    if (step < warmup_) return peak_ * static_cast<double>(step + 1) / static_cast<double>(warmup_ + 1);
    const auto progress = [&](double begin) {
        const double length = static_cast<double>(end_) - begin;
        const double passed = static_cast<double>(step) - begin;
        return length <= 0 ? (passed < 0 ? 0.0 : 1.0) : std::clamp(passed / length, 0.0, 1.0);
    };
    switch (type_) {
    case Type::constant:
        return peak_;
    case Type::linear:
        return peak_ + (lowest_ - peak_) * progress(static_cast<double>(warmup_));
    case Type::cosine:
        return lowest_ +
               (peak_ - lowest_) * (1 + std::cos(std::numbers::pi * progress(static_cast<double>(warmup_)))) / 2;
    case Type::wsd:
        return peak_ + (lowest_ - peak_) * progress(static_cast<double>(end_) * (1 - decay_ratio_));
    }
    return peak_;
}

} // namespace tessera
