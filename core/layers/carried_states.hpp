// SPDX-License-Identifier: Apache-2.0
// States that a step leaves to the next one, as truncated back-propagation through time does (Williams and Peng 1990):
// each row of the batch goes on with its own stream of the data, and no gradient flows from step to step.
#pragma once

#include "core/layers/builder.hpp"

#include <string>

namespace tessera::layers {

// A state is a table in f32 with a row for each stream of the whole step, which every rank holds; a micro-batch takes
// its rows. What the micro-batches leave is summed over them like a loss, each row being one's alone: hence the same
// bits on any number of ranks, and checkpoints, pipelines and ZeRO know no more of it than of any other state.
class CarriedStates {
public:
    // `streams`: rows of a step; none: every window starts from 0. States are 0 before each step whose number is a
    // multiple of `steps_per_epoch`; 0: before the first alone. `purpose` is a word of their names.
    CarriedStates(Graph& graph, std::string purpose, std::int64_t streams, std::int64_t steps_per_epoch)
        : graph_(graph), purpose_(std::move(purpose)), streams_(streams), steps_per_epoch_(steps_per_epoch) {}

    explicit operator bool() const { return streams_ > 0; }

    struct State {
        ValueId table;
        ValueId before; // (rows, width) f32, of the rows of the micro-batch
    };
    State take(const std::string& name, std::int64_t rows, std::int64_t width);
    // after: (rows, width) f32
    void leave(const std::string& name, const State& state, ValueId after);

private:
    ValueId rows_of_table(const std::string& name, std::int64_t rows, bool reads);

    Graph& graph_;
    std::string purpose_;
    std::int64_t streams_, steps_per_epoch_;
};

} // namespace tessera::layers
