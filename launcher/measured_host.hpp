// SPDX-License-Identifier: Apache-2.0
// The constants of this host for a plan that names no machine's file.
#pragma once

#include "core/config.hpp"
#include "core/cost/machine.hpp"

namespace tessera {

// Starts `tessera bench` on as many ranks of this host as the run would have, with the config's device and threads, and
// returns what it measures, some seconds later. ConfigError for more ranks than fit here (four share a core at most, a
// GPU has one), SystemError when the bench fails.
Machine measured_here(const Config& config, int ranks);

} // namespace tessera
