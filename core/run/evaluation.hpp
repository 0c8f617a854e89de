// SPDX-License-Identifier: Apache-2.0
// The loss on the validation split: each sample once, in the same order, whatever the number of ranks, as long as
// training.local_batch_size says the rows of a micro-batch (they follow from the number of ranks otherwise).
#pragma once

#include "core/data/loader.hpp"
#include "core/run/executor.hpp"
#include "core/run/experiment.hpp"
#include "core/run/ground.hpp"
#include "core/run/metrics.hpp"

#include <functional>

namespace tessera {

inline constexpr Key<std::int64_t> evaluate_every{
    "metrics.evaluate_every", 250, "steps between evaluations on the validation split; 0: at the end only"};
inline constexpr Key<bool> evaluate_ema{
    "metrics.evaluate_ema", true,
    "evaluate the weights' average, where training.ema_decay keeps one; false: the weights of the last step"};

class Evaluation {
public:
    // All arguments must outlive it. `memory` is shared with training: they take turns.
    Evaluation(const Ground& ground, const Experiment& experiment, const Memory& memory);

    // Reads the keys above. Throws ConfigError for a wrong value.
    static void check_keys(const Config& config);

    // Never without a validation split.
    bool due(std::int64_t steps_done, bool last) const;
    EvaluationRecord run(std::int64_t steps_done); // called by all ranks together
    std::int64_t allocated_bytes() const;          // of the loader that run() makes

    // Whether it is of the averages of the weights. Reads the keys that say so.
    static bool is_of_averages(const Config& config);

private:
    // What is evaluated in one go: whole micro-batches or those left over, of all samples or of one source.
    struct Pass {
        const Program& program;
        std::unique_ptr<Executor> executor;
        LoaderOptions loader;
        SampleOrder order;
        std::size_t source; // of sources_

        std::int64_t batches() const { return loader.micro_batches_per_step * loader.end_step; }
        std::int64_t samples() const { return batches() * loader.micro_batch_size; }
    };

    void find_averages(const Memory& memory);
    void exchange_weights();
    void add_pass(const Program& program, const LoaderOptions& loader, const SampleOrder& order, const Memory& memory);
    void count_bytes(const SampleOrder& order);
    void evaluate(Pass& pass, const std::function<void()>& after_step);

    Ground ground_;
    const Experiment& experiment_;
    std::int64_t every_;
    std::vector<Pass> passes_; // none without a validation split
    struct Source {
        std::string name;
        std::int64_t samples = 0, bytes = 0; // bytes: of text, where metrics.evaluate asks for it
    };
    std::vector<Source> sources_;          // one without a name where data are of one
    std::vector<View> weights_, averages_; // this rank's; of what is evaluated in the weights' place, if it is
};

} // namespace tessera
