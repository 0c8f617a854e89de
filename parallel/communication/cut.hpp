// SPDX-License-Identifier: Apache-2.0
// How collectives cut views into bytes, and what they refuse. The same for every back end.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"
#include "parallel/layout/placement.hpp"
#include "parallel/layout/summation_tree.hpp"

#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace tessera {

// The bytes of a reduction that `rank` sums: whole cache lines, so that no two ranks write to one.
Range slice_bytes(std::int64_t bytes, int ranks, int rank);

// The bytes of `whole` that are `rank`'s part along dim 0, cut in units of so many rows.
Range part_bytes(const ConstView& whole, std::int64_t unit, int ranks, int rank);

// The piece [at, at + limit) of a range of bytes, cut off at its end; empty beyond.
Range piece_of(Range range, std::int64_t at, std::int64_t limit);

// The blocks of an all_to_allv, in bytes: how large they are, and where they lie in what a rank sends and receives.
class UnevenBlocks {
public:
    UnevenBlocks(std::span<const std::int64_t> bytes, int ranks) : bytes_(bytes), ranks_(ranks) {}

    std::int64_t between(int from, int to) const { return bytes_[static_cast<std::size_t>(from * ranks_ + to)]; }
    Range in_sent(int from, int to) const;
    Range in_received(int from, int to) const;
    std::int64_t sent_by(int rank) const { return in_sent(rank, ranks_ - 1).end; }
    std::int64_t received_by(int rank) const { return in_received(ranks_ - 1, rank).end; }
    std::int64_t most_sent() const; // by one rank

private:
    std::span<const std::int64_t> bytes_;
    int ranks_;
};

// These throw InternalError, naming the call, what was found and what was expected.
void check_part(std::string_view call, const ConstView& whole, const ConstView& part, std::int64_t unit, int ranks,
                int rank);
void check_blocks(const ConstView& send, const ConstView& receive, int ranks);
void check_uneven_blocks(const ConstView& send, const ConstView& receive, std::span<const std::int64_t> bytes,
                         int ranks, int rank);
void check_shift(const ConstView& send, const ConstView& receive);
void check_tree(const ConstView& buffer, const SummationTree& tree, int ranks);
void check_rank(std::string_view call, int rank, int ranks);

// The stream of a back end that works on host memory. Throws InternalError for a GPU's.
CpuStream& cpu_stream(Stream& stream);
const CpuStream& cpu_stream(const Stream& stream);

// Memory as bytes, and a copy that may be of nothing or onto itself.
inline std::byte* bytes_at(const View& view) { return static_cast<std::byte*>(view.memory()); }
inline const std::byte* bytes_at(const ConstView& view) { return static_cast<const std::byte*>(view.data); }
inline void copy_bytes(std::byte* to, const std::byte* from, std::int64_t bytes) {
    if (bytes > 0 && to != from) std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

} // namespace tessera
