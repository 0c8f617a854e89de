// SPDX-License-Identifier: Apache-2.0
// Byte ranges of slices and parts, and the sentences for calls that do not fit.
#include "parallel/communication/cut.hpp"

#include "kernels/error.hpp"
#include "kernels/memory.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <utility>

namespace tessera {

Range slice_bytes(std::int64_t bytes, int ranks, int rank) {
    const Range lines = shard_range(align_up(bytes) / alignment_bytes, ranks, rank);
    return {std::min(bytes, lines.begin * alignment_bytes), std::min(bytes, lines.end * alignment_bytes)};
}

Range part_bytes(const ConstView& whole, std::int64_t unit, int ranks, int rank) {
    const Range rows = shard_range_in_units(whole.shape[0], unit, ranks, rank);
    const std::int64_t row = whole.shape.count(1, whole.shape.rank()) * bytes_of(whole.dtype);
    return {rows.begin * row, rows.end * row};
}

Range piece_of(Range range, std::int64_t at, std::int64_t limit) {
    return {std::min(range.end, range.begin + at), std::min(range.end, range.begin + at + limit)};
}

Range UnevenBlocks::in_sent(int from, int to) const {
    std::int64_t begin = 0;
    for (int rank = 0; rank < to; ++rank)
        begin += between(from, rank);
    return {begin, begin + between(from, to)};
}

Range UnevenBlocks::in_received(int from, int to) const {
    std::int64_t begin = 0;
    for (int rank = 0; rank < from; ++rank)
        begin += between(rank, to);
    return {begin, begin + between(from, to)};
}

std::int64_t UnevenBlocks::most_sent() const {
    std::int64_t most = 0;
    for (int rank = 0; rank < ranks_; ++rank)
        most = std::max(most, sent_by(rank));
    return most;
}

void check_part(std::string_view call, const ConstView& whole, const ConstView& part, std::int64_t unit, int ranks,
                int rank) {
    if (whole.shape.rank() < 1) throw InternalError(fmt::format("{}: a scalar cannot be cut into parts", call));
    Shape expected = whole.shape;
    expected.set(0, shard_range_in_units(whole.shape[0], unit, ranks, rank).size());
    if (part.shape != expected || part.dtype != whole.dtype)
        throw InternalError(fmt::format("{}: rank {} of {} has a part of {} {}, the whole of {} {} wants {}", call,
                                        rank, ranks, name_of(part.dtype), part.shape.text(), name_of(whole.dtype),
                                        whole.shape.text(), expected.text()));
}

void check_blocks(const ConstView& send, const ConstView& receive, int ranks) {
    if (send.bytes() != receive.bytes() || send.dtype != receive.dtype)
        throw InternalError(fmt::format("all_to_all: sends {} {}, receives {} {}", name_of(send.dtype),
                                        send.shape.text(), name_of(receive.dtype), receive.shape.text()));
    if (send.shape.rank() < 1 || send.shape[0] % ranks != 0)
        throw InternalError(
            fmt::format("all_to_all: {} cannot be cut into {} equal blocks along dim 0", send.shape.text(), ranks));
}

void check_uneven_blocks(const ConstView& send, const ConstView& receive, std::span<const std::int64_t> bytes,
                         int ranks, int rank) {
    if (static_cast<std::int64_t>(bytes.size()) != std::int64_t{ranks} * ranks)
        throw InternalError(fmt::format("all_to_allv: {} sizes for {} ranks", bytes.size(), ranks));
    const UnevenBlocks blocks(bytes, ranks);
    for (int from = 0; from < ranks; ++from)
        for (int to = 0; to < ranks; ++to)
            if (blocks.between(from, to) < 0 || (from == to && blocks.between(from, to) != 0))
                throw InternalError(
                    fmt::format("all_to_allv: {} bytes from rank {} to {}", blocks.between(from, to), from, to));
    if (send.bytes() != blocks.sent_by(rank) || receive.bytes() != blocks.received_by(rank))
        throw InternalError(fmt::format("all_to_allv: rank {} of {} hands over {} bytes and room for {}, the sizes say "
                                        "{} and {}",
                                        rank, ranks, send.bytes(), receive.bytes(), blocks.sent_by(rank),
                                        blocks.received_by(rank)));
}

void check_shift(const ConstView& send, const ConstView& receive) {
    if (send.dtype != receive.dtype || send.count() != receive.count())
        throw InternalError(fmt::format("shift: {} of {} is sent, {} of {} received", send.shape.text(),
                                        name_of(send.dtype), receive.shape.text(), name_of(receive.dtype)));
}

void check_tree(const ConstView& buffer, const SummationTree& tree, int ranks) {
    if (tree.ranks() != ranks)
        throw InternalError(fmt::format("tree_reduce: a tree for {} ranks among {}", tree.ranks(), ranks));
    if (buffer.dtype != DType::f32)
        throw InternalError(fmt::format("tree_reduce: sums f32, not {}", name_of(buffer.dtype)));
}

void check_rank(std::string_view call, int rank, int ranks) {
    if (rank < 0 || rank >= ranks) throw InternalError(fmt::format("{}: there is no rank {} of {}", call, rank, ranks));
}

CpuStream& cpu_stream(Stream& stream) { return const_cast<CpuStream&>(cpu_stream(std::as_const(stream))); }

const CpuStream& cpu_stream(const Stream& stream) {
    if (const auto* cpu = std::get_if<CpuStream>(&stream)) return *cpu;
    throw InternalError("a communicator of CPU ranks, which exchanges host memory, was handed the stream of a GPU");
}

} // namespace tessera
