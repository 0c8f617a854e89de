// SPDX-License-Identifier: Apache-2.0
// Communicators cut along dim 0. A cut along another dim is packed: all of rank 0's part, then all of rank 1's, …
#include "core/plan/redistribute.hpp"

#include "kernels/copy.hpp"
#include "kernels/error.hpp"
#include "kernels/memory.hpp"
#include "parallel/communication/groups.hpp"
#include "parallel/layout/zigzag.hpp"

#include <fmt/format.h>

namespace tessera {
namespace {

// A tensor as seen from one of its dims.
struct AlongDim {
    AlongDim(const Shape& shape, int dim, DType dtype)
        : outer(shape.count(0, dim)), size(shape[dim]),
          inner_bytes(shape.count(dim + 1, shape.rank()) * bytes_of(dtype)) {}

    std::int64_t outer;
    std::int64_t size;
    std::int64_t inner_bytes;
};

// Packed memory of a tensor of shape `whole`, or of a rank's part, as communicators cut it: a row for each place in
// dim.
View as_rows(const View& memory, std::int64_t rows, const Shape& whole, int dim) {
    return {memory.memory(), {rows, whole.count(0, dim) * whole.count(dim + 1, whole.rank())}, memory.dtype};
}

View bytes_from(const View& view, std::int64_t offset, const Shape& shape) {
    return {static_cast<std::byte*>(view.memory()) + offset, shape, view.dtype};
}

View in_a_row(const View& view) { return {view.memory(), {view.count()}, view.dtype}; }

constexpr Parts runs{.unit = flat_block};

int dim_of(Placement placement) { return placement.kind == Placement::Kind::shard ? placement.value : -1; }

} // namespace

Redistribute::Redistribute(int axis, int ranks, Placement from, Placement to, bool zigzag, int ordered_dim)
    : axis_(axis), ranks_(ranks), collective_(redistribution(from, to)), from_dim_(dim_of(from)), to_dim_(dim_of(to)),
      zigzag_(zigzag), ordered_dim_(ordered_dim) {
    if (zigzag && collective_ == Collective::all_to_all)
        throw InternalError("an all_to_all would deal out a dim that has no order");
}

// What a rank has of a dim, in the order in which it has it.
std::vector<Range> Redistribute::ranges_of(std::int64_t size, int rank) const {
    if (!zigzag_) return {shard_range(size, ranks_, rank)};
    const std::array<Range, 2> chunks = zigzag_ranges(size, ranks_, rank);
    return {chunks.begin(), chunks.end()};
}

// Whether the ranks' parts do not lie one behind the other in the whole.
bool Redistribute::is_packed(const Shape& whole, int dim) const {
    return dim >= 0 && (zigzag_ || (dim > 0 && whole.count(0, dim) > 1));
}

// Between a whole tensor and the packed parts of the ranks.
void Redistribute::copy_parts(Stream& stream, const View& whole, int dim, const View& packed, bool pack) const {
    const AlongDim along(whole.shape, dim, whole.dtype);
    std::int64_t begin = 0; // place, counting the ranks' parts one behind the other
    for (int rank = 0; rank < ranks_; ++rank) {
        const std::int64_t part = shard_range(along.size, ranks_, rank).size();
        std::int64_t in_part = 0;
        for (const Range& range : ranges_of(along.size, rank)) {
            kernels::Blocks blocks{.count = along.outer,
                                   .bytes = range.size() * along.inner_bytes,
                                   .from_step = along.size * along.inner_bytes,
                                   .to_step = part * along.inner_bytes};
            const View in_whole = bytes_from(whole, range.begin * along.inner_bytes, {});
            const View in_packed = bytes_from(packed, (begin * along.outer + in_part) * along.inner_bytes, {});
            if (!pack) std::swap(blocks.from_step, blocks.to_step);
            std::visit(
                [&](auto& s) {
                    kernels::copy_blocks(s, blocks, pack ? in_whole : in_packed, pack ? in_packed : in_whole);
                },
                stream);
            in_part += range.size();
        }
        begin += part;
    }
}

std::int64_t Redistribute::workspace_bytes(const Stream&, std::span<const TensorType> in,
                                           std::span<const TensorType> out) const {
    if (collective_ == Collective::all_gather && is_packed(out[0].shape, from_dim_)) return out[0].bytes();
    if (collective_ == Collective::reduce_scatter && is_packed(in[0].shape, to_dim_)) return in[0].bytes();
    if (collective_ == Collective::all_to_all) return 2 * align_up(in[0].bytes());
    return 0;
}

void Redistribute::run(Stream& stream, const Operands& a) const {
    switch (collective_) {
    case Collective::all_reduce:
        if (a.outputs[0].data != a.inputs[0].data)
            std::visit([&](auto& s) { kernels::cast(s, a.inputs[0], a.outputs[0]); }, stream);
        a.groups->axis(axis_).all_reduce(stream, a.outputs[0], Reduction::sum);
        return;
    case Collective::all_gather:
        return gather(stream, a);
    case Collective::reduce_scatter:
        return scatter_sum(stream, a);
    case Collective::slice:
        return slice(stream, a);
    case Collective::all_to_all:
        return exchange(stream, a);
    default:
        throw InternalError(fmt::format("{} is no node of a graph", name()));
    }
}

std::int64_t Redistribute::begin(Stream& stream, const Operands& a) const {
    if (collective_ != Collective::all_gather || from_dim_ >= 0) return Op::begin(stream, a);
    return a.groups->axis(axis_).begin_all_gather(stream, in_a_row(a.inputs[0]), in_a_row(a.outputs[0]), runs);
}

void Redistribute::gather(Stream& stream, const Operands& a) const {
    const View &part = a.inputs[0], &whole = a.outputs[0];
    if (from_dim_ < 0) return a.groups->axis(axis_).all_gather(stream, in_a_row(part), in_a_row(whole), runs);
    const bool packed = is_packed(whole.shape, from_dim_);
    const View target = packed ? View(a.workspace.memory(), whole.shape, whole.dtype) : whole;
    a.groups->axis(axis_).all_gather(stream, as_rows(part, part.shape[from_dim_], whole.shape, from_dim_),
                                     as_rows(target, whole.shape[from_dim_], whole.shape, from_dim_));
    if (packed) copy_parts(stream, whole, from_dim_, target, false);
}

void Redistribute::scatter_sum(Stream& stream, const Operands& a) const {
    const View &whole = a.inputs[0], &part = a.outputs[0];
    if (to_dim_ < 0) return a.groups->axis(axis_).reduce_scatter(stream, in_a_row(whole), in_a_row(part), runs);
    const bool packed = is_packed(whole.shape, to_dim_);
    const View source = packed ? View(a.workspace.memory(), whole.shape, whole.dtype) : whole;
    if (packed) copy_parts(stream, whole, to_dim_, source, true);
    a.groups->axis(axis_).reduce_scatter(stream, as_rows(source, whole.shape[to_dim_], whole.shape, to_dim_),
                                         as_rows(part, part.shape[to_dim_], whole.shape, to_dim_));
}

void Redistribute::slice(Stream& stream, const Operands& a) const {
    const int rank = a.groups->axis(axis_).rank();
    const AlongDim whole = to_dim_ < 0 ? AlongDim({a.inputs[0].count()}, 0, a.inputs[0].dtype)
                                       : AlongDim(a.inputs[0].shape, to_dim_, a.inputs[0].dtype);
    const std::vector<Range> ranges = to_dim_ < 0
                                          ? std::vector{shard_range_in_units(whole.size, flat_block, ranks_, rank)}
                                          : ranges_of(whole.size, rank);
    std::int64_t part = 0, done = 0;
    for (const Range& range : ranges)
        part += range.size();
    for (const Range& range : ranges) {
        const kernels::Blocks blocks{.count = whole.outer,
                                     .bytes = range.size() * whole.inner_bytes,
                                     .from_step = whole.size * whole.inner_bytes,
                                     .to_step = part * whole.inner_bytes};
        const View from = bytes_from(a.inputs[0], range.begin * whole.inner_bytes, {});
        const View to = bytes_from(a.outputs[0], done * whole.inner_bytes, {});
        std::visit([&](auto& s) { kernels::copy_blocks(s, blocks, from, to); }, stream);
        done += range.size();
    }
}

void Redistribute::exchange(Stream& stream, const Operands& a) const {
    const View &from = a.inputs[0], &to = a.outputs[0];
    if (from.shape[to_dim_] % ranks_ != 0 || to.shape[from_dim_] % ranks_ != 0)
        throw InternalError(fmt::format("all_to_all from dim {} of {} to dim {} of {} on {} ranks: uneven parts",
                                        from_dim_, from.shape.text(), to_dim_, to.shape.text(), ranks_));
    const View sent(a.workspace.memory(), from.shape, from.dtype);
    const View received = bytes_from(a.workspace, align_up(from.bytes()), {});
    copy_parts(stream, from, to_dim_, sent, true);
    const View arrived(received.memory(), to.shape, to.dtype);
    const Shape blocks{ranks_, from.count() / ranks_};
    a.groups->axis(axis_).all_to_all(stream, View(sent.memory(), blocks, from.dtype),
                                     View(arrived.memory(), blocks, to.dtype));
    copy_parts(stream, to, from_dim_, arrived, false);
}

} // namespace tessera
