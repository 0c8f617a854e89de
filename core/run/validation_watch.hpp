// SPDX-License-Identifier: Apache-2.0
// What the validation loss decides: a learning rate that falls where it gets no better, and an early end. What it knows
// is a state of the graph, saved and restored like any other; every rank sees the same losses and decides alike.
#pragma once

#include "core/run/executor.hpp"
#include "core/run/experiment.hpp"

namespace tessera {

inline constexpr Key<std::int64_t> plateau_patience{
    "lr_scheduler.plateau_patience", 5, "plateau: evaluations without a better loss after which the rate falls"};
inline constexpr Key<double> plateau_factor{"lr_scheduler.plateau_factor", 0.1, "plateau: of the rate when it falls"};
inline constexpr Key<double> plateau_threshold{"lr_scheduler.plateau_threshold", 1e-4,
                                               "plateau: a better loss is lower by more than this share of the best"};
inline constexpr Key<std::int64_t> early_stopping_patience{
    "training.early_stopping_patience", 0,
    "training ends after so many evaluations without a lower validation loss; 0: never early"};
inline constexpr Key<double> early_stopping_least{
    "training.early_stopping_min_delta", 0, "early stopping: how much lower than the best a loss must be to count"};

struct PlateauSettings {
    bool rate_falls = false; // lr_scheduler.type = "plateau"
    double factor = 0.1, threshold = 1e-4, lowest = 0;
    std::int64_t patience = 5;
    std::int64_t stop_after = 0; // evaluations; 0: never
    double least = 0;
};

// From the keys above. ConfigError for a wrong value.
PlateauSettings plateau_settings(const Config& config);

// As torch.optim.lr_scheduler.ReduceLROnPlateau (mode "min", a relative threshold) and Keras's EarlyStopping.
class Plateau {
public:
    static constexpr std::int64_t numbers = 7; // of `state`

    // Changes the state by one loss. A loss that is no number is no better.
    static void see(const PlateauSettings& settings, double loss, float* state);
    static double rate_factor(const float* state); // 1 before the first loss
    static bool stops(const PlateauSettings& settings, const float* state);
};

class ValidationWatch {
public:
    // Reads the keys. ConfigError for a wrong value, and where there is nothing to watch.
    static void check_keys(const Config& config, const Experiment& experiment);

    // Once states have started or are restored. All arguments outlive it.
    ValidationWatch(const Config& config, const Experiment& experiment, const Executor& executor);

    void restart(); // when states have been restored
    // Returns what follows, in words; empty: nothing. An evaluation that is no multiple of metrics.evaluate_every, at
    // the end of a run, decides nothing: a run with more steps has none there.
    std::string see(std::int64_t steps_done, double loss);
    // A run that stops leaves an evaluation out: the one that goes on makes up for it before its first step.
    void put_off();
    bool waits() const { return waits_; }
    double rate_factor() const { return rate_factor_; }
    bool stops() const { return stops_; }

private:
    const Experiment& experiment_;
    const Executor& executor_;
    PlateauSettings settings_;
    std::int64_t every_;
    double rate_factor_ = 1;
    bool stops_ = false;
    bool waits_ = false;
};

// The state, where the config wants one; no_value: it wants none.
ValueId append_validation_state(Graph& graph, const Config& config);

} // namespace tessera
