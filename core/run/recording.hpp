// SPDX-License-Identifier: Apache-2.0
// What a rank's run of one micro-batch made, value by value, and how far each is from the same run on one rank.
#pragma once

#include "core/run/held_part.hpp"
#include "core/run/tolerances.hpp"
#include "core/run/twins.hpp"

#include <string>

namespace tessera {

// A place in a micro-batch that ranks can compare, whatever nodes each of them runs: of a node of the one rank's graph,
// and of the nodes that this rank runs besides, counted from there.
struct PlaceInGraph {
    Phase phase = Phase::prepare;
    std::int32_t node = -1;
    std::int32_t after = 0;
};

class Recording {
public:
    Recording(const Program& many, const Twins& twins, const Tolerances& tolerances);

    struct Entry {
        PlaceInGraph place;
        ValueId value; // of the plan on many ranks
        HeldPart part;
        std::vector<std::byte> bytes;
        double distance = -1; // below 0: not compared
    };

    void clear();
    // Keeps a copy of what the node has made, or of an input of the micro-batch. Of what cannot be compared, nothing.
    void keep(Stream& stream, const Node& node, std::span<const View> outputs);
    void keep_input(Stream& stream, ValueId id, const View& view);
    // Compares what was kept with a value of the one rank's graph, all of it.
    void compare(Stream& stream, ValueId twin, const View& whole);

    // In the order in which they were made: the first that differs by more than its tolerance, or null.
    const Entry* first_wrong() const;
    // The last one before it that was compared, or null.
    const Entry* before(const Entry& entry) const;
    double tolerance(const Entry& entry) const;
    double largest() const; // distance of all

private:
    void keep(Stream& stream, ValueId id, const View& view);

    const Program& many_;
    const Twins& twins_;
    Tolerances tolerances_;
    PlaceInGraph place_;
    std::vector<Entry> entries_;
    std::vector<std::vector<std::size_t>> by_twin_;
};

} // namespace tessera
