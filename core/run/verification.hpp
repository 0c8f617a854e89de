// SPDX-License-Identifier: Apache-2.0
// The same training run on one rank and on many, side by side: which value is the first that differs, and on which
// rank.
#pragma once

#include "core/optimizers/schedule.hpp"
#include "core/run/experiment.hpp"
#include "core/run/ground.hpp"
#include "core/run/recording.hpp"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace tessera {

// What is said on top of a config to have its experiment on one rank: no key of [parallelism], nothing computed again,
// and micro-batches of the same size.
std::vector<std::string> words_for_one_rank(const Batch& batch);

// Every rank computes the whole run on one rank, beside its part of the run on many, and compares what it holds itself.
// So a rank needs the memory of both; and once a difference is found, host memory for all values of a micro-batch that
// it makes.
//
// Each step begins from the one rank's weights and states, and each update from its gradients, so that what differs is
// what this step made: nothing adds up, and no optimizer blows a rounding error up to a step of full length, as Adam
// does where a gradient is 0 but for rounding (biases of keys, of which softmax takes no notice).
class Verification {
public:
    // `one` and `many` are of one config, on one rank and as this rank of `ground.groups` has it; both plans are run as
    // they are. Called by all ranks together; all arguments outlive this.
    Verification(const Ground& ground, const Experiment& one, const Experiment& many);
    ~Verification();

    // What a step left, over all ranks.
    struct Step {
        double loss = 0; // of the one rank, per token
        double grad_norm = 0;
        double loss_difference = 0; // largest relative distances found (see held_part.hpp)
        double gradient_difference = 0;
        double update_difference = 0;
        std::string fault; // what differs first, in lines of text; empty: all that was compared agrees
    };

    // The weights as each run starts them: what differs, or "".
    std::string start();
    // All ranks get the same. Steps are taken in order, from 0, until one has a fault.
    Step step(std::int64_t number);

    const Tolerances& tolerances() const { return tolerances_; }

private:
    struct Run;
    struct Compared { // over all ranks
        double distance = 0;
        std::string fault; // the first beyond its tolerance, or ""
    };

    StepState state_of(std::int64_t number) const;
    void run_micro_batches(Run& run, const StepState& state, const std::function<void(std::int64_t)>& on_batch = {});
    void update(const StepState& state, Step& step);
    Compared compare(const std::vector<ValueId>& ids, double tolerance, const std::string& when);
    void take_from_one(const std::vector<ValueId>& ids);
    std::string locate(const StepState& state);
    void record(const StepState& state, std::int64_t place);
    void compare_record(const StepState& state, std::int64_t micro_batch);
    std::string first_recorded(const StepState& state, std::int64_t micro_batch) const;
    std::string text_of(const Recording::Entry& entry, const StepState& state, std::int64_t micro_batch) const;
    std::string text_of(ValueId id, const std::string& when, double distance, double tolerance) const;
    std::string first_of(const std::string& mine) const;
    double most_of(double mine) const;

    Ground ground_;
    SampleOrder order_;
    Schedule schedule_;
    Tolerances tolerances_;
    Groups alone_;
    std::unique_ptr<Run> one_, many_;
    Twins twins_;
    Recording recording_;
    std::vector<ValueId> weights_, gradients_, losses_; // by their numbers in both graphs; weights: states, too
};

} // namespace tessera
