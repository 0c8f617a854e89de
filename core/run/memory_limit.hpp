// SPDX-License-Identifier: Apache-2.0
// The memory that a rank may use, and the least recomputation with which a run stays within it.
#pragma once

#include "core/run/experiment.hpp"

#include <optional>
#include <string>
#include <string_view>

namespace tessera {

inline constexpr Key<std::string> run_memory_limit{
    "run.memory_limit", "",
    "memory of a rank, as 80GiB: what needs more is refused, and training.recompute = \"auto\" goes by it"};

// "512MiB", "1.5 GiB": a number, at most one space, and B, KiB, MiB, GiB or TiB. Nothing for any other text, and for no
// memory at all.
std::optional<std::int64_t> bytes_named(std::string_view text);

// Nothing where the config says none. ConfigError for what is no size.
std::optional<std::int64_t> memory_limit(const Config& config);

// What of a plan counts: on a GPU all but the loaders' buffers, which are the host's.
std::int64_t counted_bytes(const MemoryNeed& need, const Stream& stream);

// Where training.recompute is "auto", settles it: the least of none, selective and full with which every rank stays
// within run.memory_limit, the same on all ranks. Returns what was chosen and why, in a line; "" where there was
// nothing to choose. ConfigError, with the bytes by kind and what else would fit, where not even full does. Where sizes
// do not divide evenly the first rank of an axis holds most (layout/placement.hpp), but for the sums of a data rank
// that has more micro-batches: so two ranks of each pipeline stage are planned.
std::string settle_recompute(Config& config, const RankView& view, const Dataset* dataset, const Stream& stream);

// ConfigError, likewise, where the experiment needs more than run.memory_limit.
void check_limit(const Config& config, const RankView& view, const Dataset* dataset, const Stream& stream);

} // namespace tessera
