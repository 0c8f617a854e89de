// SPDX-License-Identifier: Apache-2.0
// The catalog of schedules: each a function that reads its keys and returns the rate after warm-up.
#include "core/optimizers/schedule.hpp"

#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

namespace tessera {
namespace {

using Rate = std::function<double(double step)>;

double cosine_between(double high, double low, double progress) {
    return low + (high - low) * (1 + std::cos(std::numbers::pi * progress)) / 2;
}

// What schedules are made of.
struct Making {
    const Config& config;
    double peak;
    double warmup;
    std::int64_t steps; // of the run

    double lowest() const {
        const double lowest = peak * config.get(schedule_min_factor);
        if (!(lowest >= 0)) config.refuse(schedule_min_factor.name, "must be at least 0");
        return lowest;
    }

    double end() const {
        const std::int64_t end = config.get(schedule_decay_steps);
        if (end < 0) config.refuse(schedule_decay_steps.name, "must be at least 0");
        return static_cast<double>(end == 0 ? steps : end);
    }

    // From 0 at step `begin` to 1 at the end, where it stays.
    std::function<double(double)> progress_from(double begin) const {
        return [begin, length = end() - begin](double step) {
            const double passed = step - begin;
            return length <= 0 ? (passed < 0 ? 0.0 : 1.0) : std::clamp(passed / length, 0.0, 1.0);
        };
    }

    double at_least(const Key<double>& key, double least) const {
        const double value = config.get(key);
        if (!(value >= least && std::isfinite(value))) config.refuse(key.name, "is out of range");
        return value;
    }

    double steps_of(const Key<std::int64_t>& key) const {
        const std::int64_t value = config.get(key);
        if (value < 1) config.refuse(key.name, "must be at least 1");
        return static_cast<double>(value);
    }
};

Rate constant(const Making& m) {
    return [peak = m.peak](double) { return peak; };
}

Rate linear(const Making& m) {
    return [peak = m.peak, lowest = m.lowest(), progress = m.progress_from(m.warmup)](double step) {
        return peak + (lowest - peak) * progress(step);
    };
}

Rate cosine(const Making& m) {
    return [peak = m.peak, lowest = m.lowest(), progress = m.progress_from(m.warmup)](double step) {
        return cosine_between(peak, lowest, progress(step));
    };
}

Rate polynomial(const Making& m) {
    const double power = m.config.get(schedule_power);
    if (!(power > 0 && std::isfinite(power))) m.config.refuse(schedule_power.name, "must be above 0");
    return [power, peak = m.peak, lowest = m.lowest(), progress = m.progress_from(m.warmup)](double step) {
        return lowest + (peak - lowest) * std::pow(1 - progress(step), power);
    };
}

Rate wsd(const Making& m) {
    const double ratio = m.config.get(schedule_decay_ratio);
    if (!(ratio >= 0 && ratio <= 1)) m.config.refuse(schedule_decay_ratio.name, "must be in [0, 1]");
    return [peak = m.peak, lowest = m.lowest(), progress = m.progress_from(m.end() * (1 - ratio))](double step) {
        return peak + (lowest - peak) * progress(step);
    };
}

// Factors gamma, whole ones or parts of them.
Rate falling(const Making& m, double (*passed)(double)) {
    const double gamma = m.config.get(schedule_gamma);
    if (!(gamma > 0 && gamma <= 1)) m.config.refuse(schedule_gamma.name, "must be above 0 and at most 1");
    return [=, peak = m.peak, warmup = m.warmup, size = m.steps_of(schedule_step_size)](double step) {
        return peak * std::pow(gamma, passed((step - warmup) / size));
    };
}

Rate in_steps(const Making& m) {
    return falling(m, [](double passed) { return std::floor(passed); });
}

Rate exponential(const Making& m) {
    return falling(m, [](double passed) { return passed; });
}

Rate inverse_sqrt(const Making& m) {
    std::int64_t timescale = m.config.get(schedule_timescale);
    if (timescale < 0) m.config.refuse(schedule_timescale.name, "must be at least 0");
    if (timescale == 0) timescale = static_cast<std::int64_t>(m.warmup);
    if (timescale == 0) m.config.refuse(schedule_timescale.name, "is wanted where lr_scheduler.warmup_steps is 0");
    return [=, peak = m.peak, warmup = m.warmup](double step) {
        return peak / std::sqrt(1 + (step - warmup) / static_cast<double>(timescale));
    };
}

Rate cosine_restarts(const Making& m) {
    const double interval = m.steps_of(schedule_restart_interval), factor = m.at_least(schedule_restart_factor, 1);
    return [=, peak = m.peak, lowest = m.lowest(), warmup = m.warmup](double step) {
        double passed = step - warmup, length = interval;
        if (factor == 1) passed = std::fmod(passed, length);
        for (; passed >= length; length = std::round(length * factor))
            passed -= length;
        return cosine_between(peak, lowest, passed / length);
    };
}

struct Kind {
    std::string_view name;
    Rate (*make)(const Making&);
};
constexpr std::array kinds = {Kind{"constant", constant},
                              Kind{"cosine", cosine},
                              Kind{"cosine_restarts", cosine_restarts},
                              Kind{"exponential", exponential},
                              Kind{"inverse_sqrt", inverse_sqrt},
                              Kind{"linear", linear},
                              Kind{"one_cycle", cosine}, // which rises otherwise
                              Kind{"plateau", constant}, // times what run/validation_watch.hpp says
                              Kind{"polynomial", polynomial},
                              Kind{"step", in_steps},
                              Kind{"wsd", wsd}};

const Kind& kind_named(const Config& config) {
    const std::string name = config.get(schedule_type);
    std::vector<std::string_view> names;
    for (const Kind& kind : kinds) {
        if (kind.name == name) return kind;
        names.push_back(kind.name);
    }
    config.refuse(schedule_type.name, no_such_name("schedule", name, names));
}

} // namespace

Schedule::Schedule(const Config& config, double peak_rate, std::int64_t steps)
    : warmup_(static_cast<double>(config.get(schedule_warmup))) {
    if (warmup_ < 0) config.refuse(schedule_warmup.name, "must be at least 0");
    const Kind& kind = kind_named(config);
    const Making making{config, peak_rate, warmup_, steps};
    after_ = kind.make(making);
    if (kind.name == "one_cycle")
        rising_ = [=, start = peak_rate * making.at_least(schedule_start_factor, 0), warmup = warmup_](double step) {
            return cosine_between(start, peak_rate, step / warmup);
        };
    else
        rising_ = [=, warmup = warmup_](double step) { return peak_rate * (step + 1) / (warmup + 1); };
}

double Schedule::rate(std::int64_t step) const {
    const auto at = static_cast<double>(step);
    return at < warmup_ ? rising_(at) : after_(at);
}

} // namespace tessera
