// SPDX-License-Identifier: Apache-2.0
// In which turns a rank works on the micro-batches of a step, and where their gradients are summed. Follows from the
// plan alone.
#pragma once

#include "core/plan/plan.hpp"

#include <compare>
#include <vector>

namespace tessera {

struct Merge { // slot `into` += slot `from`
    std::size_t into;
    std::size_t from;
    friend bool operator==(const Merge&, const Merge&) = default;
};

// Of a micro-batch: where what it accumulates goes, and what is merged after it.
struct Accumulation {
    std::size_t slot;
    std::vector<Merge> merges;
    friend bool operator==(const Accumulation&, const Accumulation&) = default;
};

// A binary counter: each micro-batch goes to the first free slot; neighbours that sum equally many are merged. Without
// the promise of equal bits, two slots do: a running sum and the newcomer. By micro-batch.
std::vector<Accumulation> accumulation_of(std::int64_t micro_batches, bool reproducible);

// What a part leaves in a slot. In the last micro-batch the pieces of an exchange are merged before it.
struct Sums {
    struct OfExchange {
        std::size_t exchange; // of plan.exchanges, that starts in this part
        std::int64_t after;   // so many calls of the part
        std::vector<SlotPiece> pieces;
    };
    std::vector<SlotPiece> all;
    std::vector<OfExchange> exchanges;
    std::vector<SlotPiece> rest; // of no exchange that starts here
};

// By part. Exchanges over the stages of a pipeline start in none: they come when all has been sent on.
std::vector<Sums> sums_of(const Plan& plan, int pipeline_axis);

// Where accumulated values and a micro-batch's own lie.
struct Place {
    std::size_t slot = 0;
    int frame = 0;
    friend auto operator<=>(const Place&, const Place&) = default;
};

// Parts that a rank does of a micro-batch without a word to other stages.
struct Turn {
    std::vector<int> parts;
    std::int64_t micro_batch; // below 0: none, but a round for the other ranks' sake
    Place place;
    std::size_t task; // the first of the plan's
    bool last;        // micro-batch
    std::size_t kind; // the same for turns of which nothing differs but the micro-batch
};

// `transmissions`: none where messages do not wait.
std::vector<Turn> turns_of(const Plan& plan, const std::vector<Transmission>& transmissions,
                           const std::vector<Accumulation>& accumulation);

} // namespace tessera
