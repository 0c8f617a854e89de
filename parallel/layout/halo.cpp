// SPDX-License-Identifier: Apache-2.0
// Windows over strips of images, tap by tap: a dilated window, or a stride beyond its size, leaves rows out.
#include "parallel/layout/halo.hpp"

#include <algorithm>
#include <optional>

namespace tessera {
namespace {

std::int64_t place_of(const WindowDim& window, std::int64_t output, std::int64_t tap) {
    return output * window.stride - window.before + tap * window.dilation;
}

bool sees(const WindowDim& window, std::int64_t output, Range rows) {
    for (std::int64_t tap = 0; tap < window.size; ++tap) {
        const std::int64_t row = place_of(window, output, tap);
        if (row >= rows.begin && row < rows.end) return true;
    }
    return false;
}

} // namespace

Range rows_seen(const WindowDim& window, std::int64_t length, Range outputs) {
    std::optional<Range> seen;
    for (std::int64_t output = outputs.begin; output < outputs.end; ++output)
        for (std::int64_t tap = 0; tap < window.size; ++tap) {
            const std::int64_t row = place_of(window, output, tap);
            if (row < 0 || row >= length) continue;
            if (!seen) seen = {row, row};
            seen = {std::min(seen->begin, row), std::max(seen->end, row + 1)};
        }
    return seen.value_or(Range{});
}

Range outputs_seeing(const WindowDim& window, std::int64_t length, Range rows) {
    Range seen{0, rows.size() > 0 ? window.outputs(length) : 0};
    while (seen.begin < seen.end && !sees(window, seen.begin, rows))
        ++seen.begin;
    while (seen.end > seen.begin && !sees(window, seen.end - 1, rows))
        --seen.end;
    return seen.size() > 0 ? seen : Range{};
}

WindowDim window_over(const WindowDim& window, std::int64_t length, Range outputs) {
    const Range rows = rows_seen(window, length, outputs);
    const std::int64_t first = place_of(window, outputs.begin, 0);
    const std::int64_t end = place_of(window, outputs.end - 1, window.size - 1) + 1;
    WindowDim over = window;
    over.before = rows.size() == 0 ? end - first : rows.begin - first;
    over.after = rows.size() == 0 ? 0 : end - rows.end;
    return over;
}

RowFetch::RowFetch(std::int64_t length, std::vector<Range> wanted) : length_(length), wanted_(std::move(wanted)) {}

Range RowFetch::between(int from, int to) const {
    const Range has = held(from), wants = wanted(to);
    const Range rows{std::max(has.begin, wants.begin), std::min(has.end, wants.end)};
    return from == to || rows.size() <= 0 ? Range{} : rows;
}

std::int64_t RowFetch::sent_by(int rank) const {
    std::int64_t rows = 0;
    for (int to = 0; to < ranks(); ++to)
        rows += between(rank, to).size();
    return rows;
}

std::int64_t RowFetch::received_by(int rank) const {
    std::int64_t rows = 0;
    for (int from = 0; from < ranks(); ++from)
        rows += between(from, rank).size();
    return rows;
}

bool RowFetch::moves() const {
    for (int rank = 0; rank < ranks(); ++rank)
        if (sent_by(rank) > 0) return true;
    return false;
}

} // namespace tessera
