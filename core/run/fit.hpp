// SPDX-License-Identifier: Apache-2.0
// Whether a run fits into the memory it is given, and if not, what would make it fit.
#pragma once

#include "core/run/experiment.hpp"

#include <string>

namespace tessera {

// "  weights   1,234   0.00 MiB" for each kind of memory and the total.
std::string memory_table(const MemoryNeed& need);

// The smallest changes of single keys, at most three, with which the plan fits into `bytes`, one a line with what it
// then needs: "training.local_batch_size=4: 3,100.00 MiB". Empty when none does.
std::string ways_to_fit(const Config& config, const RankView& view, const Dataset* dataset, const Stream& stream,
                        std::int64_t bytes);

// Throws ConfigError with both when the stream's memory has no room for the experiment. Pinned buffers for data are the
// host's and do not count.
void check_fits(const Experiment& experiment, const Config& config, const RankView& view, const Dataset* dataset,
                const Stream& stream);

// Plans each stage of a growing batch that the run comes to, so that none is refused on the way: ConfigError that names
// it.
void check_stages(const Experiment& experiment, const Config& config, const RankView& view, const Dataset* dataset,
                  const Stream& stream);

} // namespace tessera
