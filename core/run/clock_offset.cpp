// SPDX-License-Identifier: Apache-2.0
// Offsets of clocks by questions and answers. Times travel as the bytes of f64s, in words of i32.
#include "core/run/clock_offset.hpp"

#include <array>
#include <limits>

namespace tessera {
namespace {

constexpr int questions = 32; // the first ones are slow: connections are made

View words(double* values, std::int64_t count) { return View(values, {2 * count}, DType::i32); }

// The rank that is asked adds what its clock says; rank 0 tells it the result at the end.
ClockOffset answer(Communicator& ranks, Stream& host, const std::function<double()>& clock) {
    for (int i = 0; i < questions; ++i) {
        double now = 0;
        ranks.receive(host, words(&now, 1), 0);
        now = clock();
        ranks.send(host, words(&now, 1), 0);
    }
    std::array<double, 2> found{};
    ranks.receive(host, words(found.data(), 2), 0);
    return {found[0], found[1]};
}

void ask(Communicator& ranks, Stream& host, const std::function<double()>& clock, int rank) {
    double quickest = std::numeric_limits<double>::infinity();
    std::array<double, 2> found{};
    for (int i = 0; i < questions; ++i) {
        const double before = clock();
        double theirs = before;
        ranks.send(host, words(&theirs, 1), rank);
        ranks.receive(host, words(&theirs, 1), rank);
        const double after = clock();
        if (after - before >= quickest) continue;
        quickest = after - before;
        found = {theirs - (before + after) / 2, quickest / 2};
    }
    ranks.send(host, words(found.data(), 2), rank);
}

} // namespace

ClockOffset clock_offset(Communicator& ranks, Stream& host, const std::function<double()>& clock) {
    ClockOffset mine;
    if (ranks.rank() != 0)
        mine = answer(ranks, host, clock);
    else
        for (int rank = 1; rank < ranks.size(); ++rank)
            ask(ranks, host, clock, rank);
    ranks.barrier(host); // nobody works on while another is measured
    return mine;
}

} // namespace tessera
