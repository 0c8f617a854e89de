// SPDX-License-Identifier: Apache-2.0
// What a run carries from step to step, by name: weights and optimizer states; how they start, are saved and restored.
#pragma once

#include "core/checkpoint/checkpoint.hpp"
#include "core/run/executor.hpp"
#include "core/run/experiment.hpp"
#include "core/run/host_copy.hpp"

namespace tessera {

// Parameters, then optimizer states, in the order of the graph.
std::vector<ValueId> persistent_values(const Graph& graph);

// Starts every parameter as its ParameterInfo says. An element's value depends on seed, name and index alone.
void initialize_weights(const Program& program, const Executor& executor, std::uint64_t seed);

// Starts the optimizer states that belong to no parameter.
void initialize_states(const Program& program, const Executor& executor);

// The boxes of weights and optimizer states that `rank` writes. What several ranks hold alike is shared out among
// them, along its first dim.
struct SavedState {
    std::vector<TensorPart> parts;
    std::vector<HostCopy> copies; // what the parts point to on a GPU
};
SavedState state_to_save(const Program& program, const Executor& executor, int rank);

// Reads this rank's boxes of the program's parameters and, where the program has any, optimizer states. ConfigError
// when a tensor is missing or has another shape; but states of no parameter (of a loss scale, of the guard) that the
// checkpoint has none of start anew. Returns their names.
std::vector<std::string> restore_tensors(const Checkpoint& checkpoint, const Program& program,
                                         const Executor& executor);

// A team for saving, made of a communicator's ranks.
Team team_of(Communicator& communicator, Stream& stream);

} // namespace tessera
