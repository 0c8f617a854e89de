// SPDX-License-Identifier: Apache-2.0
// How a run goes on with fewer ranks than its config says.
#pragma once

#include "core/config.hpp"
#include "launcher/job/supervise.hpp"

namespace tessera {

// Asks the planning code, in processes of its own, whether the config of these words (CONFIG, then keys) runs on so
// many ranks, and with which words besides (Supervision::fit):
//   data       as it is, or with data_parallel_degree = -1
//   same_bits  with other degrees of pipeline, data and replicas, schedules and, where it must be, stages of ZeRO:
//   those
//              that `plan --search` takes for the fastest. The size of a micro-batch and all that shares out products
//              stays: no bit of the result changes.
//   any        with all that a search varies, the size of a micro-batch last: the result is the same within rounding.
// `config` is what the words mean.
std::optional<std::vector<std::string>> words_to_fit(const Config& config, const std::vector<std::string>& words,
                                                     std::int64_t ranks, Freedom freedom, std::string& refusal);

} // namespace tessera
