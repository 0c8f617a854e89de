// SPDX-License-Identifier: Apache-2.0
// How a run goes on with fewer ranks than its config says.
#pragma once

#include "core/config.hpp"
#include "launcher/job/supervise.hpp"

namespace tessera {

// Asks the planning code, in processes of its own, whether the config of these words (CONFIG, then keys) runs on so
// many ranks, and with which words besides (Supervision::fit). First, what the config leaves to the number of ranks
// (samples of a step or of a micro-batch, a degree of -1 of an axis that shares out products) is settled as on the
// ranks that were wanted; then:
//
// - data: as it is, or with data_parallel_degree = -1.
// - same_bits: with other degrees of pipeline, data and replicas, other schedules and, where it must be, stages of
//   ZeRO: those of the fastest layout that `plan --search` finds. Micro-batches and all that shares out products stay.
// - any: with all that a search varies, the size of a micro-batch last: the result is the same within rounding.
//
// With the first two no bit of the result changes. `config` is what the words mean; it may not fit the ranks that were
// wanted: then nothing fits.
std::optional<std::vector<std::string>> words_to_fit(const Config& config, const std::vector<std::string>& words,
                                                     const LayoutQuestion& question, std::string& refusal);

} // namespace tessera
