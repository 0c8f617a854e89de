// SPDX-License-Identifier: Apache-2.0
// Which values of a run on many ranks say the same as which of the run on one: by their numbers, which the plan's
// passes keep, through the collectives between them, and by name where the forward pass is computed again.
#pragma once

#include "core/run/experiment.hpp"

namespace tessera {

class Twins {
public:
    // Both outlive this. InternalError unless they are programs of one model.
    Twins(const Program& many, const Program& one);

    // The value of the one rank's graph of which this rank's value is, or should be, a part; no_value where there is
    // none: what lies on another rank, or an op has made for itself.
    ValueId of(ValueId id) const { return twins_[static_cast<std::size_t>(id)]; }

    // Whether the two can be compared in one micro-batch, as soon as they are made: not where a sum over ranks is still
    // owed, or is over several micro-batches already.
    bool in_micro_batch(ValueId id) const;

    // The node of the one rank's graph that makes a value of that graph; -1: none.
    std::int32_t producer_of(ValueId twin) const { return one_.plan.graph.value(twin).producer; }

    // The numbered layer that it belongs to, or -1.
    int layer_of(ValueId id) const;

private:
    void find_repeated();
    void follow_transfers();
    void find_sums();

    const Program& many_;
    const Program& one_;
    std::vector<ValueId> twins_;       // by ValueId of the plan's graph of `many`
    std::vector<bool> over_data_axis_; // summed over it in the micro-batch
    std::vector<bool> owed_;           // summed over another axis after the last micro-batch
};

} // namespace tessera
