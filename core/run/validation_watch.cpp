// SPDX-License-Identifier: Apache-2.0
// The numbers of a plateau, and what follows from them.
#include "core/run/validation_watch.hpp"

#include "core/optimizers/schedule.hpp"
#include "core/run/evaluation.hpp"
#include "core/run/host_copy.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>

namespace tessera {
namespace {

// Of a state: whether there was a loss, what the rate goes by, what the end goes by, whether an evaluation was put off.
enum : std::size_t { seen, best, worse_since, rate_times, lowest, not_lower_since, put_off_one };

} // namespace

PlateauSettings plateau_settings(const Config& config) {
    PlateauSettings settings;
    settings.rate_falls = config.get(schedule_type) == "plateau";
    if (settings.rate_falls) {
        settings.factor = config.get(plateau_factor);
        settings.threshold = config.get(plateau_threshold);
        settings.patience = config.get(plateau_patience);
        settings.lowest = config.get(schedule_min_factor);
        if (!(settings.factor > 0 && settings.factor < 1))
            config.refuse(plateau_factor.name, "must be above 0 and below 1");
        if (!(settings.threshold >= 0 && settings.threshold < 1))
            config.refuse(plateau_threshold.name, "must be at least 0 and below 1");
        if (settings.patience < 0) config.refuse(plateau_patience.name, "must be at least 0");
    }
    settings.stop_after = config.get(early_stopping_patience);
    if (settings.stop_after < 0) config.refuse(early_stopping_patience.name, "must be at least 0");
    if (settings.stop_after > 0) settings.least = config.get(early_stopping_least);
    if (!(settings.least >= 0)) config.refuse(early_stopping_least.name, "must be at least 0");
    return settings;
}

void Plateau::see(const PlateauSettings& settings, double loss, float* state) {
    state[put_off_one] = 0;
    const bool first = state[seen] == 0;
    const auto found = static_cast<float>(loss);
    if (first) state[rate_times] = 1;
    const double wanted = state[best] - settings.threshold * std::abs(state[best]);
    const bool better = std::isfinite(loss) && (first || found < wanted);
    const bool lower = std::isfinite(loss) && (first || found < state[lowest] - settings.least);
    if (better) state[best] = found;
    if (lower) state[lowest] = found;
    state[worse_since] = better ? 0 : state[worse_since] + 1;
    state[not_lower_since] = lower ? 0 : state[not_lower_since] + 1;
    if (std::isfinite(loss)) state[seen] = 1;
    if (state[worse_since] <= static_cast<float>(settings.patience) || !settings.rate_falls) return;
    state[worse_since] = 0;
    state[rate_times] = static_cast<float>(std::max(state[rate_times] * settings.factor, settings.lowest));
}

double Plateau::rate_factor(const float* state) { return state[rate_times] == 0 ? 1 : state[rate_times]; }

bool Plateau::stops(const PlateauSettings& settings, const float* state) {
    return settings.stop_after > 0 && state[not_lower_since] >= static_cast<float>(settings.stop_after);
}

ValueId append_validation_state(Graph& graph, const Config& config) {
    const PlateauSettings settings = plateau_settings(config);
    if (!settings.rate_falls && settings.stop_after == 0) return no_value;
    return graph.optimizer_state("optimizer.validation", {Plateau::numbers}, 0);
}

void ValidationWatch::check_keys(const Config& config, const Experiment& experiment) {
    const PlateauSettings settings = plateau_settings(config);
    const std::string_view key = settings.rate_falls ? schedule_type.name : early_stopping_patience.name;
    if (!settings.rate_falls && settings.stop_after == 0) return;
    if (experiment.evaluation_batches == 0)
        config.refuse(key, "goes by the validation loss, and the data have no validation split");
    if (config.get(evaluate_every) == 0)
        config.refuse(key, "goes by the validation loss: set metrics.evaluate_every, the steps between evaluations");
}

ValidationWatch::ValidationWatch(const Config& config, const Experiment& experiment, const Executor& executor)
    : experiment_(experiment), executor_(executor), settings_(plateau_settings(config)),
      every_(config.get(evaluate_every)) {
    restart();
}

void ValidationWatch::restart() {
    if (experiment_.validation_state == no_value) return;
    HostCopy state(executor_.stream(), executor_.view(experiment_.validation_state));
    state.load();
    rate_factor_ = Plateau::rate_factor(state.view().as<float>());
    stops_ = Plateau::stops(settings_, state.view().as<float>());
    waits_ = state.view().as<float>()[put_off_one] != 0;
}

void ValidationWatch::put_off() {
    if (experiment_.validation_state == no_value) return;
    HostCopy state(executor_.stream(), executor_.view(experiment_.validation_state));
    state.load();
    state.view().as<float>()[put_off_one] = 1;
    state.store();
}

std::string ValidationWatch::see(std::int64_t steps_done, double loss) {
    if (experiment_.validation_state == no_value || (steps_done % every_ != 0 && !waits_)) return {};
    const double before = rate_factor_;
    HostCopy state(executor_.stream(), executor_.view(experiment_.validation_state));
    state.load();
    Plateau::see(settings_, loss, state.view().as<float>());
    state.store();
    restart();
    if (stops_) return fmt::format("no lower loss in {} evaluations: training ends", settings_.stop_after);
    if (rate_factor_ != before) return fmt::format("the learning rate is {:g} of what it was", rate_factor_ / before);
    return {};
}

} // namespace tessera
