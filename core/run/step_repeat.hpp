// SPDX-License-Identifier: Apache-2.0
// A step computed twice: what does not come out alike, bit by bit, tells of a processor or a memory that errs.
#pragma once

#include "core/log.hpp"
#include "core/run/executor.hpp"
#include "core/run/experiment.hpp"
#include "core/run/ground.hpp"

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace tessera {

inline constexpr Key<std::int64_t> repeat_interval{
    "guard.repeat_interval", 0,
    "steps between those computed twice, to find processors and memories that err by their bits; 0: never"};

class StepRepeat {
public:
    // All arguments outlive this.
    StepRepeat(const Ground& ground, const Experiment& experiment, Executor& executor);

    // Reads the key above. Throws ConfigError for a wrong value, and where sums have no fixed order.
    static void check_keys(const Config& config);
    // Of the host's memory, in which the batches are read again.
    static std::int64_t bytes_for(const Config& config, const Experiment& experiment);

    std::int64_t allocated_bytes() const { return bytes_for(ground_.config, experiment_); }
    bool due(std::int64_t step) const { return interval_ > 0 && (step + 1) % interval_ == 0; } // step: from 0

    // In place of prepare() and run_micro_batches() of the executor, which it calls twice, with the same weights,
    // random numbers and samples; `next_batch` gives these the first time, then they are read again. Where what was
    // summed is not alike on some rank, a third time. Where that agrees with one of the others, whose sums are then
    // there, the fault has passed: all ranks return the same sentence about the rank and tensor at fault. Where it does
    // not, or the same rank was at fault the time before, the fault lasts: all throw SystemError. "" where there is
    // none.
    std::string run(const StepState& state, const std::function<void()>& next_batch);

private:
    struct Mark { // what a node made, in one round of all ranks
        std::int32_t round, node, output;
    };
    struct Computation {
        std::vector<std::uint64_t> marks; // fingerprints of marked_
        std::vector<std::uint64_t> sums;  // of summed_
    };
    struct Fault {
        int rank = -1;
        std::string where;
    };

    Computation compute(const StepState& state, const std::function<void()>& next_batch);
    Computation compute_again(const StepState& state);
    void see(const Node& node, std::int64_t micro_batch, std::span<const View> outputs);
    void mark(const Mark& place, const View& view);
    void take_pending();
    std::vector<std::uint64_t> fingerprints_of(std::span<const View> views);
    bool alike(const Computation& one, const Computation& other) const;
    std::string name_of(const Mark& place) const;
    std::string first_difference(const Computation& one, const Computation& other) const;
    Fault locate(const Computation& one, const Computation& other) const;

    Ground ground_;
    const Experiment& experiment_;
    Executor& executor_;
    std::int64_t interval_;
    std::map<const Node*, std::int32_t> numbers_; // of the nodes that this rank runs
    std::vector<ValueId> summed_;                 // what the update takes from the micro-batches, and this rank holds
    Buffer memory_;                               // of fingerprints that the host has not seen yet
    std::int64_t pending_ = 0;
    std::vector<Mark> marked_; // the same in every computation of a step
    std::vector<std::uint64_t> seen_;
    std::int64_t faults_ = 0;
    int last_rank_ = -1; // at fault the time before
};

} // namespace tessera
