// SPDX-License-Identifier: Apache-2.0
// The batch arithmetic.
#include "core/run/batch.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {

std::string Batch::text(std::int64_t least, std::int64_t most) const {
    const std::string shares = least == most ? fmt::format("{}", most)
                               : least == 0  ? fmt::format("none to {} (some have no work and wait)", most)
                                             : fmt::format("{} to {} (uneven: the others wait)", least, most);
    return fmt::format("global batch {} = {} micro-batches of {}; per rank: {}", global, micro_batches, micro_batch,
                       shares);
}

Batch solve_batch(const Config& config, int ranks) {
    std::int64_t global = config.get(training_global_batch);
    std::int64_t local = config.get(training_local_batch);
    std::int64_t accumulation = config.get(training_accumulation);
    for (const auto* key : {&training_global_batch, &training_local_batch, &training_accumulation})
        if (config.get(*key) < 0) config.refuse(key->name, "must be at least 1, or 0 to be solved from the others");
    const bool fixed = local != 0;
    if (global == 0 && local == 0)
        config.refuse(training_global_batch.name, "say training.global_batch_size or training.local_batch_size");
    if (global == 0) global = local * std::max<std::int64_t>(accumulation, 1) * ranks;
    if (local == 0) {
        const std::int64_t parts = std::max<std::int64_t>(accumulation, 1) * ranks;
        if (global % parts != 0)
            config.refuse(training_global_batch.name,
                          fmt::format("cannot be cut into {} equal micro-batches ({} ranks x {} accumulation steps)",
                                      parts, ranks, parts / ranks));
        local = global / parts;
    }
    if (global % local != 0)
        config.refuse(training_global_batch.name,
                      fmt::format("is no multiple of training.local_batch_size = {}", local));
    const std::int64_t micro_batches = global / local;
    if (accumulation != 0 && micro_batches != accumulation * ranks)
        config.refuse(training_accumulation.name,
                      fmt::format("{} micro-batches of {} on {} ranks make a global batch of {}, not {}", accumulation,
                                  local, ranks, accumulation * local * ranks, global));
    return {global, local, micro_batches, fixed};
}

std::int64_t evaluation_rows(const Config& config) {
    const std::int64_t local = config.get(training_local_batch);
    if (local > 0) return local;
    return std::max<std::int64_t>(
        config.get(training_global_batch) / std::max<std::int64_t>(config.get(training_accumulation), 1), 1);
}

} // namespace tessera
