// SPDX-License-Identifier: Apache-2.0
// The constants of this host for a plan that names no machine's file: measured, or taken for usual.
#pragma once

#include "core/config.hpp"
#include "core/cost/machine.hpp"

namespace tessera {

// Starts `tessera bench` on as many ranks of this host as the run would have, with the config's device and threads, and
// returns what it measures, some seconds later. ConfigError for more ranks than fit here (four share a core at most, a
// GPU has one), SystemError when the bench fails.
Machine measured_here(const Config& config, int ranks);

// What hosts with such devices usually do: enough to tell layouts apart, at once, for any number of ranks. As many
// ranks on each host as this one has GPUs, or as its cores have room for with the config's threads. A CPU rank has its
// share of this host's memory; that of a GPU is not looked at, so that only run.memory_limit bounds it.
Machine usual_host(const Config& config, int ranks);

} // namespace tessera
