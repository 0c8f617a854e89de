// SPDX-License-Identifier: Apache-2.0
// The fixed order in which a step's micro-batches are summed, so that no number of ranks changes a bit of a gradient.
#pragma once

#include "parallel/layout/placement.hpp"

#include <cstdint>
#include <vector>

namespace tessera {

// A binary tree over the micro-batches (leaves). n leaves split at the largest power of two below n, which is the order
// in which a binary counter merges equal neighbours: 8 = 4 + 4, 7 = 4 + (2 + 1). The tree depends on the leaves alone.
//
// Every rank sums one whole subtree. Shares are found by splitting the largest subtree (the leftmost of equals) until
// there are as many as ranks, which gives the smallest possible largest share. With a power of two of leaves, shares
// differ by a factor of two at most (8 leaves on 6 ranks: 1 1 1 1 2 2); other numbers can differ by more, since their
// trees do (5 leaves on 2 ranks: 4 1).
class SummationTree {
public:
    // Throws ConfigError when there are more ranks than leaves, and InternalError when either is below 1.
    SummationTree(std::int64_t leaves, int ranks);

    std::int64_t leaves() const { return leaves_; }
    int ranks() const { return static_cast<int>(shares_.size()); }
    Range share(int rank) const { return shares_.at(static_cast<std::size_t>(rank)); } // its consecutive leaves
    bool even() const;                                                                 // all shares have the same size

    // What is left to do once every rank has summed its share: partial[into] += partial[from], in this order. The
    // result is in partial[0]. `into` and `from` are ranks; into's subtree lies just left of from's.
    struct Merge {
        int into;
        int from;
        friend bool operator==(const Merge&, const Merge&) = default;
    };
    const std::vector<Merge>& merges() const { return merges_; }

    // The same merges for who reads the ranks once from the left with a stack: push partial[r], then replace the two
    // topmost by their sum merges_after()[r] times. One value is left at the end.
    const std::vector<int>& merges_after() const { return merges_after_; }

private:
    int merge(Range range); // appends the merges inside `range`; returns the rank that holds its sum

    std::int64_t leaves_;
    std::vector<Range> shares_;
    std::vector<Merge> merges_;
    std::vector<int> merges_after_;
};

// Buffers needed to sum that many leaves one after another with a binary counter: floor(log2(leaves)) + 1.
int slots_needed(std::int64_t leaves);

} // namespace tessera
