// SPDX-License-Identifier: Apache-2.0
// Which sample comes when: a pure function of (seed, running index), the same on any number of ranks. Resuming needs
// the index only.
#pragma once

#include "core/data/source_mix.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace tessera {

// Samples [i * samples, (i + 1) * samples) are cheap to read together, the last block may be partly filled.
struct SampleBlocks {
    std::int64_t samples = 1;  // of a block; 1: any order is as good as another
    std::int64_t together = 1; // blocks that a shuffled order mixes: those that a reader can hold at a time
};

// One of several that are mixed, each in an order and in epochs of its own.
struct OrderedSource {
    std::string name;        // part of what its order is drawn from: other sources beside it do not change that
    std::int64_t weight = 1; // its share, in whole numbers
    std::int64_t first = 0;  // its samples are [first, first + samples)
    std::int64_t samples = 0;
    std::int64_t window = 1;
    SampleBlocks blocks{};
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

    std::vector<OrderedSource> sources{}; // to mix (source_mix.hpp), instead of samples, window and blocks; no streams
};

class SampleOrder {
public:
    // Throws ConfigError for an unknown kind, DataError for no samples.
    explicit SampleOrder(const SampleOrderOptions& options);

    // `index` counts all samples since the run began, over all ranks; its epoch is index / per_epoch(). Constant memory
    // and time.
    std::int64_t sample(std::int64_t index) const;

    // The same, with how often its source has begun anew and which source that is.
    struct Place {
        std::int64_t sample = 0, epoch = 0;
        std::size_t source = 0;
    };
    Place place(std::int64_t index) const;

    // Samples of an epoch: windows side by side (random: as many draws). Phases leave the last, partly filled one out.
    // Of several sources: of one epoch of each.
    std::int64_t per_epoch() const { return per_epoch_; }

    // How far the first `samples` have come in each source: one alone is one.
    struct Progress {
        std::int64_t samples = 0;
        double epochs = 0;
    };
    std::vector<Progress> progress(std::int64_t samples) const;

private:
    enum class Kind { random, sequential, shuffle, stream };

    void mix(const SampleOrderOptions& options);
    std::int64_t shuffled(std::int64_t epoch, std::int64_t position) const;
    std::int64_t shuffled_in_blocks(std::int64_t epoch, std::int64_t position) const;

    Kind kind_;
    std::uint64_t seed_;
    std::int64_t samples_;
    std::int64_t window_;
    std::int64_t streams_;
    SampleBlocks blocks_;
    std::int64_t per_epoch_ = 0;

    std::optional<SourceMix> mix_;            // where there are several
    std::vector<SampleOrder> of_sources_;     // each counts its samples from 0
    std::vector<std::int64_t> first_samples_; // of each
};

} // namespace tessera
