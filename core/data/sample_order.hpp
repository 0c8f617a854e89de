// SPDX-License-Identifier: Apache-2.0
// Which sample comes when: a pure function of (seed, running index), the same on any number of ranks. Resuming needs
// the index only.
#pragma once

#include <cstdint>
#include <string>

namespace tessera {

// Samples [i * samples, (i + 1) * samples) are cheap to read together, the last block may be partly filled.
struct SampleBlocks {
    std::int64_t samples = 1;  // of a block; 1: any order is as good as another
    std::int64_t together = 1; // blocks that a shuffled order mixes: those that a reader can hold at a time
};

struct SampleOrderOptions {
    // random      any sample, with replacement (nanoGPT's order)
    // sequential  0, window, 2 * window, …, then again from 0
    // shuffle     each epoch draws a phase in [0, window) and visits phase, phase + window, … once each, in an order of
    //             its own. Where samples lie in blocks: the blocks come in an order of their own, and the samples of
    //             `together` of them are mixed
    // stream      the windows are cut into `streams` parts of equal length, and each goes on with its own: the first
    //             windows of all, the second ones, …; what is left over at the end is left out
    std::string kind = "shuffle";
    std::uint64_t seed = 1;
    std::int64_t samples = 0; // Dataset::samples
    std::int64_t window = 1;  // samples this far apart share no token: the sequence length, or 1 for separate samples
    std::int64_t streams = 1; // stream: rows of a step, over all ranks
    SampleBlocks blocks{};    // shuffle of separate samples, window 1
};

class SampleOrder {
public:
    // Throws ConfigError for an unknown kind, DataError for no samples.
    explicit SampleOrder(const SampleOrderOptions& options);

    // `index` counts all samples since the run began, over all ranks; its epoch is index / per_epoch(). Constant memory
    // and time.
    std::int64_t sample(std::int64_t index) const;

    // Samples of an epoch: windows side by side (random: as many draws). Phases leave the last, partly filled one out.
    std::int64_t per_epoch() const { return per_epoch_; }

private:
    enum class Kind { random, sequential, shuffle, stream };

    std::int64_t shuffled(std::int64_t epoch, std::int64_t position) const;
    std::int64_t shuffled_in_blocks(std::int64_t epoch, std::int64_t position) const;

    Kind kind_;
    std::uint64_t seed_;
    std::int64_t samples_;
    std::int64_t window_;
    std::int64_t streams_;
    SampleBlocks blocks_;
    std::int64_t per_epoch_;
};

} // namespace tessera
