// SPDX-License-Identifier: Apache-2.0
// What a run carries from step to step, by name: weights and optimizer states; how they start, are saved and restored.
#pragma once

#include "core/checkpoint/checkpoint.hpp"
#include "core/run/executor.hpp"
#include "core/run/experiment.hpp"
#include "core/run/host_copy.hpp"

#include <functional>

namespace tessera {

// Parameters, then optimizer states, in the order of the graph.
std::vector<ValueId> persistent_values(const Graph& graph);

// Starts every parameter as its ParameterInfo says. An element's value depends on seed, name and index alone.
void initialize_weights(const Program& program, const Executor& executor, std::uint64_t seed);

// Starts the optimizer states that belong to no parameter.
void initialize_states(const Program& program, const Executor& executor);

// Lets the weights' averages start as the weights.
void start_averages(const Program& program, const Executor& executor);

// Where a rank holds a value of the program: Executor::view, for instance.
using ViewOf = std::function<View(ValueId)>;
inline ViewOf memory_of(const Executor& executor) {
    return [&executor](ValueId id) { return executor.view(id); };
}

// As above, before there is memory: views with types only.
ViewOf planned(const Program& program);

// The boxes of weights and optimizer states that `rank` writes, their data where the stream works. What several ranks
// hold alike is shared out among them, along its first dim.
std::vector<TensorPart> parts_to_save(const Program& program, const ViewOf& view_of, int rank);

// Fills what this rank holds of a weight or state, box by box: read(start of the box in the whole, its elements). Rows
// of padding become 0.
void fill_held(const Program& program, ValueId id, const View& view, Stream& stream,
               const std::function<void(const std::vector<std::int64_t>&, const View&)>& read);

enum class WeightsOf { last_step, average };

// Throws ConfigError unless the checkpoint has the program's parameters and, where it has any, optimizer states, in
// their shapes. States of no parameter (of a loss scale, of the guard) may be missing, and averages, which start as the
// weights then. Reads no data.
void require_tensors(const Checkpoint& checkpoint, const Program& program);

// Reads this rank's boxes of them; of weights that have an average the average, where that is asked for. ConfigError as
// above, where no average is there, and when what is read is damaged: the memory is undefined then. Of states that may
// be missing and are, starts them anew and returns the names ("optimizer.ema/*": all averages).
std::vector<std::string> restore_tensors(const Checkpoint& checkpoint, const Program& program, const ViewOf& view_of,
                                         Stream& stream, WeightsOf which = WeightsOf::last_step);

bool has_averages(const Checkpoint& checkpoint);
void require_averages(const Checkpoint& checkpoint); // ConfigError where it has none

// A team for saving, made of a communicator's ranks.
Team team_of(Communicator& communicator, Stream& stream);

} // namespace tessera
