// SPDX-License-Identifier: Apache-2.0
// States that a step leaves to the next one, as truncated back-propagation through time does (Williams and Peng 1990):
// each row of the batch goes on with its own stream of the data, and no gradient flows from step to step.
#pragma once

#include "core/layers/builder.hpp"
#include "core/model.hpp"

#include <string>

namespace tessera::layers {

// A state is a table in f32 with a row for each stream of the whole step, which every rank holds; a micro-batch takes
// its rows. What the micro-batches leave is summed over them like a loss, each row being one's alone: hence the same
// bits on any number of ranks, and checkpoints, pipelines and ZeRO know no more of it than of any other state.
class CarriedStates {
public:
    // `streams`: rows of a step; none: every window starts from 0. States are 0 before each step whose number is a
    // multiple of `steps_per_epoch`; 0: before the first alone.
    CarriedStates(Graph& graph, Purpose purpose, std::int64_t streams, std::int64_t steps_per_epoch)
        : graph_(graph), trains_(purpose == Purpose::train),
          word_(purpose == Purpose::generate ? "generated" : "carried"), streams_(streams),
          steps_per_epoch_(steps_per_epoch) {}

    explicit operator bool() const { return streams_ > 0; }

    struct State {
        ValueId table;
        ValueId before; // (rows, width) f32, of the rows of the micro-batch
    };
    State take(const std::string& name, std::int64_t rows, std::int64_t width);
    // after: (rows, width) f32
    void leave(const std::string& name, const State& state, ValueId after);

    // Of training, where the update decides whether a step counts; elsewhere leave() has carried them.
    const std::vector<CarriedState>& left() const { return left_; }

private:
    ValueId rows_of_table(const std::string& name, std::int64_t rows, bool reads);

    Graph& graph_;
    bool trains_;
    std::string word_; // of the names of values
    std::int64_t streams_, steps_per_epoch_;
    std::vector<CarriedState> left_;
};

} // namespace tessera::layers
