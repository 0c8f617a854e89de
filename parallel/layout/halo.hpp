// SPDX-License-Identifier: Apache-2.0
// Which rows of an image windows look at where ranks hold strips of it, and so which rows ranks must fetch from each
// other. Pure arithmetic along one dim: rows here may as well be columns, or planes of a third dim.
#pragma once

#include "kernels/window.hpp"
#include "parallel/layout/placement.hpp"

#include <vector>

namespace tessera {

// The rows of an image of `length`, from the first to the last that a tap of these outputs looks at; empty where there
// are no outputs, or they look at padding alone.
Range rows_seen(const WindowDim& window, std::int64_t length, Range outputs);

// The outputs from the first to the last of which a tap looks at one of these rows; empty where none does.
Range outputs_seeing(const WindowDim& window, std::int64_t length, Range rows);

// The window that makes of the rows rows_seen(window, length, outputs) alone just these outputs, not none: what they
// see beside them is padding.
WindowDim window_over(const WindowDim& window, std::int64_t length, Range outputs);

// Ranks hold the pieces shard_range(length, ranks, rank) of `length` rows, and rank r wants to have wanted[r].
class RowFetch {
public:
    RowFetch(std::int64_t length, std::vector<Range> wanted);

    int ranks() const { return static_cast<int>(wanted_.size()); }
    Range held(int rank) const { return shard_range(length_, ranks(), rank); }
    Range wanted(int rank) const { return wanted_[static_cast<std::size_t>(rank)]; }
    // The rows that `from` sends to `to`: what it holds of what that one wants; none to itself.
    Range between(int from, int to) const;
    std::int64_t sent_by(int rank) const;     // rows
    std::int64_t received_by(int rank) const; // rows
    bool moves() const;                       // anything, between any two

private:
    std::int64_t length_;
    std::vector<Range> wanted_;
};

} // namespace tessera
