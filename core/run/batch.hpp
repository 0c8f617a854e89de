// SPDX-License-Identifier: Apache-2.0
// How a step's samples are cut: global batch, rows of one micro-batch, micro-batches of each rank. Any two tell the
// third.
#pragma once

#include "core/config.hpp"
#include "parallel/layout/summation_tree.hpp"

namespace tessera {

inline constexpr Key<std::int64_t> training_global_batch{
    "training.global_batch_size", 0, "samples of one optimizer step, over all ranks; 0: solved from the other two"};
inline constexpr Key<std::int64_t> training_local_batch{"training.local_batch_size", 0,
                                                        "samples of one micro-batch (one forward pass); part of the "
                                                        "experiment: the same bits on any number of ranks need it"};
inline constexpr Key<std::int64_t> training_accumulation{
    "training.gradient_accumulation_steps", 0, "micro-batches of each rank in a step; 0: solved from the other two"};

struct Batch {
    std::int64_t global = 0;
    std::int64_t micro_batch = 0;   // rows
    std::int64_t micro_batches = 0; // of a step, over all ranks
    bool fixed_micro_batch = false; // the experiment says its size, so that it does not follow from the rank count

    // "global batch 12 = 4 micro-batches of 3; per rank: 2" or "…; per rank: 1 to 2 (uneven: …)", for the least and the
    // most that a rank takes. Ranks beyond the micro-batches get none.
    std::string text(std::int64_t least, std::int64_t most) const;
};

// Throws ConfigError when the numbers do not fit, with all of them.
Batch solve_batch(const Config& config, int ranks);

// Rows of a micro-batch when a trained model is only evaluated, on whatever ranks: as trained where the config says it.
std::int64_t evaluation_rows(const Config& config);

} // namespace tessera
