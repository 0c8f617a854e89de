// SPDX-License-Identifier: Apache-2.0
// What the commands that compute have in common: ranks, threads, data, and the run a person names on the line.
#pragma once

#include "core/checkpoint/checkpoint.hpp"
#include "core/config.hpp"
#include "core/data/dataset.hpp"
#include "core/run/experiment.hpp"
#include "launcher/commands.hpp"
#include "parallel/communication/world.hpp"

namespace tessera {

// Starts MPI and tells main how to end all ranks. A rank that mpirun or srun has started ends when they do.
World& start_world(Process& process);

RankView view_of(const World& world);

// Where a rank computes, by run.device and run.threads. Called by all ranks together, which all get the same kind.
// `world` may be null for one rank alone. `tunes`: run.tune counts. ConfigError when a host has fewer GPUs than ranks
// and run.device is cuda.
Stream make_stream(const Config& config, const World* world, bool tunes = false);
// The same as a plan wants it: nothing runs there, and no GPU is looked for; auto means what this machine has.
Stream make_planning_stream(const Config& config);
// Turns run.cuda_graph off where parts of a step cannot be recorded on these ranks' GPUs, and says why; empty: it stays
// as it is. Collective. ConfigError where the config itself says true.
std::string settle_cuda_graph(Config& config, const World& world, const Stream& stream);
// The stream of what the host decides.
Stream make_host_stream(const Stream& stream);
// "2 threads share 1 core: …", or empty when the cores that this process may use are enough.
std::string thread_warning(const World& world, const Stream& stream);

std::unique_ptr<Dataset> open_data(const Config& config, const std::string& tokenizer_json);
// The same as a plan wants it: null where sizes are known without.
std::unique_ptr<Dataset> data_of(const Config& config);

// How long bench and doctor take for each figure: --milliseconds.
std::int64_t milliseconds_of(const Arguments& arguments);

// The newest checkpoint of a run's folder, or the checkpoint itself. ConfigError when there is none.
Checkpoint open_checkpoint(const std::string& path);
// The config that a checkpoint was trained with, `overrides` over it.
Config config_of(const Checkpoint& checkpoint, const std::vector<std::string>& overrides);
// The metadata entry, or "" when there is none.
std::string metadata_of(const Checkpoint& checkpoint, const std::string& name);

} // namespace tessera
