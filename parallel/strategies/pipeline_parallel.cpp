// SPDX-License-Identifier: Apache-2.0
// The cut of a list into even pieces, by dynamic programming over pieces and ends.
#include "parallel/strategies/pipeline_parallel.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <limits>

namespace tessera {
namespace {

struct Score {
    double largest = std::numeric_limits<double>::infinity();
    double squares = std::numeric_limits<double>::infinity();
    std::size_t begin = 0; // of the last piece

    bool better_than(const Score& other) const {
        return largest != other.largest ? largest < other.largest : squares < other.squares;
    }
};

} // namespace

std::vector<int> cut_evenly(std::span<const double> costs, int pieces) {
    const std::size_t items = costs.size();
    if (pieces < 1 || items < static_cast<std::size_t>(pieces))
        throw InternalError(fmt::format("{} items cannot be cut into {} pieces", items, pieces));
    std::vector<double> sums{0}; // of the first items
    for (const double cost : costs)
        sums.push_back(sums.back() + cost);
    std::vector<std::vector<Score>> best(static_cast<std::size_t>(pieces), std::vector<Score>(items + 1));
    for (std::size_t piece = 0; piece < best.size(); ++piece)
        for (std::size_t end = piece + 1; end <= items; ++end)
            for (std::size_t begin = piece; begin < (piece == 0 ? 1 : end); ++begin) {
                const double cost = sums[end] - sums[begin];
                Score score{cost, cost * cost, begin};
                if (piece > 0) {
                    const Score& before = best[piece - 1][begin];
                    score.largest = std::max(score.largest, before.largest);
                    score.squares += before.squares;
                }
                if (score.better_than(best[piece][end])) best[piece][end] = score;
            }
    std::vector<int> piece_of(items);
    for (std::size_t piece = best.size(), end = items; piece-- > 0;) {
        const std::size_t begin = best[piece][end].begin;
        std::fill(piece_of.begin() + static_cast<std::ptrdiff_t>(begin),
                  piece_of.begin() + static_cast<std::ptrdiff_t>(end), static_cast<int>(piece));
        end = begin;
    }
    return piece_of;
}

} // namespace tessera
