// SPDX-License-Identifier: Apache-2.0
// Rows that windows see and ranks fetch, against counting over all taps.
#include "parallel/layout/halo.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <set>

using namespace tessera;

namespace {

WindowDim any_window() {
    const auto below = [](int end) { return *rc::gen::inRange<std::int64_t>(0, end); };
    return {
        .size = 1 + below(5), .stride = 1 + below(4), .dilation = 1 + below(3), .before = below(4), .after = below(4)};
}

// All rows in the image that a tap of an output looks at.
std::set<std::int64_t> seen_by(const WindowDim& window, std::int64_t length, std::int64_t output) {
    std::set<std::int64_t> rows;
    for (std::int64_t tap = 0; tap < window.size; ++tap) {
        const std::int64_t row = output * window.stride - window.before + tap * window.dilation;
        if (row >= 0 && row < length) rows.insert(row);
    }
    return rows;
}

Range span_of(const std::set<std::int64_t>& places) {
    return places.empty() ? Range{} : Range{*places.begin(), *places.rbegin() + 1};
}

} // namespace

TEST(Halo, RowsAndOutputsAreThoseThatTapsConnect) {
    rc::check([] {
        const WindowDim window = any_window();
        const std::int64_t length = *rc::gen::inRange(0, 20), outputs = window.outputs(length);
        const int ranks = *rc::gen::inRange(1, 6), rank = *rc::gen::inRange(0, ranks);
        const Range own = shard_range(outputs, ranks, rank), rows = shard_range(length, ranks, rank);
        std::set<std::int64_t> seen, seeing;
        for (std::int64_t output = 0; output < outputs; ++output)
            for (const std::int64_t row : seen_by(window, length, output)) {
                if (output >= own.begin && output < own.end) seen.insert(row);
                if (row >= rows.begin && row < rows.end) seeing.insert(output);
            }
        RC_ASSERT(rows_seen(window, length, own) == span_of(seen));
        RC_ASSERT(outputs_seeing(window, length, rows) == span_of(seeing));
    });
}

// Over the rows that it has been given, a window sees what it saw in the whole image.
TEST(Halo, AWindowOverItsRowsAloneMakesTheSameOutputs) {
    rc::check([] {
        const WindowDim window = any_window();
        const std::int64_t length = *rc::gen::inRange(0, 20), outputs = window.outputs(length);
        if (outputs == 0) return;
        const std::int64_t begin = *rc::gen::inRange<std::int64_t>(0, outputs);
        const Range own{begin, *rc::gen::inRange<std::int64_t>(begin + 1, outputs + 1)};
        const Range rows = rows_seen(window, length, own);
        const WindowDim over = window_over(window, length, own);
        RC_ASSERT(over.is_valid());
        RC_ASSERT(over.outputs(rows.size()) == own.size());
        for (std::int64_t output = 0; output < own.size(); ++output) {
            std::set<std::int64_t> expected;
            for (const std::int64_t row : seen_by(window, length, own.begin + output))
                expected.insert(row - rows.begin);
            RC_ASSERT(seen_by(over, rows.size(), output) == expected);
        }
    });
}

// A halo may be wider than a neighbour's strip, and some ranks may hold nothing.
TEST(Halo, EveryRankIsSentWhatItWantsAndHasNot) {
    rc::check([] {
        const int ranks = *rc::gen::inRange(1, 6);
        const std::int64_t length = *rc::gen::inRange(0, 12);
        std::vector<Range> wanted;
        for (int rank = 0; rank < ranks; ++rank) {
            const std::int64_t begin = *rc::gen::inRange<std::int64_t>(0, length + 1);
            wanted.push_back({begin, *rc::gen::inRange<std::int64_t>(begin, length + 1)});
        }
        const RowFetch fetch(length, wanted);
        std::int64_t sent = 0, received = 0;
        for (int to = 0; to < ranks; ++to) {
            std::set<std::int64_t> rows;
            const auto add = [&](Range range) {
                for (std::int64_t row = range.begin; row < range.end; ++row)
                    RC_ASSERT(rows.insert(row).second);
            };
            const Range held = fetch.held(to), wants = wanted[static_cast<std::size_t>(to)];
            add({std::max(held.begin, wants.begin), std::min(held.end, wants.end)});
            for (int from = 0; from < ranks; ++from)
                add(fetch.between(from, to));
            RC_ASSERT(static_cast<std::int64_t>(rows.size()) == wants.size());
            RC_ASSERT(wants.size() == 0 || span_of(rows) == wants);
            sent += fetch.sent_by(to);
            received += fetch.received_by(to);
        }
        RC_ASSERT(sent == received);
        RC_ASSERT(fetch.moves() == (sent > 0));
    });
}
