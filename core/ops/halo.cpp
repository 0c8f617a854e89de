// SPDX-License-Identifier: Apache-2.0
// Strips with their halos: fetched dim by dim, so that what the second dim fetches brings the corners along. A gradient
// for the image is made for all rows that the windows in reach see, and cropped to the rank's own.
#include "core/ops/halo.hpp"

#include "core/ops/room.hpp"
#include "kernels/copy.hpp"
#include "kernels/rows.hpp"
#include "parallel/communication/groups.hpp"
#include "parallel/layout/halo.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>

namespace tessera {
namespace {

constexpr std::array dims_of_space = {1, 2};

using Reads = WindowedOp::Reads;

// What the rank at a place of an axis does along the dim that the axis cuts.
struct Strip {
    Range own;        // of the op's output, of an image or of what windows made; of a sum nothing
    Range made;       // the same before it is cropped
    WindowDim window; // over what it has fetched
    bool idle;        // no window is in reach
};

struct Cut {
    int axis;
    int dim;
    RowFetch fetch; // of inputs that are seen
    std::vector<Strip> strips;
};

Cut cut_along(const WindowedOp& op, int axis, int ranks, int dim) {
    const WindowDim& window = dim == 1 ? op.window.height : op.window.width;
    const std::int64_t length = dim == 1 ? op.height : op.width, outputs = window.outputs(length);
    std::vector<Range> wanted;
    std::vector<Strip> strips;
    for (int place = 0; place < ranks; ++place) {
        const Range own = shard_range(op.to_image ? length : outputs, ranks, place);
        const Range of_windows = op.to_image ? outputs_seeing(window, length, own) : own;
        const Range rows = rows_seen(window, length, of_windows);
        const bool idle = of_windows.size() == 0;
        wanted.push_back(op.to_image ? of_windows : rows);
        strips.push_back(
            {own, op.to_image ? rows : own, idle ? window : window_over(window, length, of_windows), idle});
    }
    return {axis, dim, RowFetch(op.to_image ? outputs : length, std::move(wanted)), std::move(strips)};
}

// The memory of a fetch: an image with its halo, and what is sent and received, rank by rank. Where the part is what is
// wanted, it is no memory.
struct Fetched {
    View image, sent, received;
};

std::int64_t row_count(const Shape& shape, int dim) { // elements of one row of all images
    return shape.count(0, dim) * shape.count(dim + 1, shape.rank());
}

Fetched room_for(const Cut& cut, int place, const TensorType& part, Room& room) {
    Shape shape = part.shape;
    const std::int64_t row = row_count(shape, cut.dim);
    shape.set(cut.dim, cut.fetch.wanted(place).size());
    const bool wants_own = cut.fetch.wanted(place) == cut.fetch.held(place);
    const View image = wants_own ? View(nullptr, shape, part.dtype) : room.take(shape, part.dtype);
    const View sent = room.take({cut.fetch.sent_by(place) * row}, part.dtype);
    return {image, sent, room.take({cut.fetch.received_by(place) * row}, part.dtype)};
}

View bytes_from(const View& view, std::int64_t offset, const Shape& shape) {
    return {static_cast<std::byte*>(view.memory()) + offset, shape, view.dtype};
}

// Rows [begin, begin + count) of a dim, of tensors that have so many rows and are alike but for that.
struct Rows {
    const View& of;
    std::int64_t begin, size;
};

void copy_rows(Stream& stream, int dim, std::int64_t count, const Rows& from, const Rows& to) {
    const Shape& shape = from.of.shape.rank() > 1 ? from.of.shape : to.of.shape; // the other one is packed
    const std::int64_t row = shape.count(dim + 1, shape.rank()) * bytes_of(from.of.dtype);
    const kernels::Blocks blocks{
        .count = shape.count(0, dim), .bytes = count * row, .from_step = from.size * row, .to_step = to.size * row};
    if (blocks.count == 0 || blocks.bytes == 0) return;
    const View source = bytes_from(from.of, from.begin * row, {}), target = bytes_from(to.of, to.begin * row, {});
    std::visit([&](auto& s) { kernels::copy_blocks(s, blocks, source, target); }, stream);
}

// The image with its halo. Every rank of the axis takes part, whatever it wants.
View fetch(Stream& stream, const Cut& cut, Communicator& ranks, const View& part, Room& room) {
    const RowFetch& fetch = cut.fetch;
    const int here = ranks.rank(), dim = cut.dim;
    const Fetched memory = room_for(cut, here, {part.shape, part.dtype}, room);
    const std::int64_t row = row_count(part.shape, dim) * bytes_of(part.dtype);
    const Range held = fetch.held(here), wanted = fetch.wanted(here);
    std::vector<std::int64_t> bytes;
    std::int64_t sent = 0;
    for (int from = 0; from < fetch.ranks(); ++from)
        for (int to = 0; to < fetch.ranks(); ++to) {
            const Range rows = fetch.between(from, to);
            bytes.push_back(rows.size() * row);
            if (from != here || rows.size() == 0) continue;
            const View packed = bytes_from(memory.sent, sent, {rows.size() * row});
            copy_rows(stream, dim, rows.size(), {part, rows.begin - held.begin, held.size()}, {packed, 0, rows.size()});
            sent += rows.size() * row;
        }
    if (fetch.moves()) ranks.all_to_allv(stream, memory.sent, memory.received, bytes);
    if (wanted == held) return part;
    std::int64_t received = 0;
    for (int from = 0; from < fetch.ranks(); ++from) {
        const Range rows = fetch.between(from, here);
        const View packed = bytes_from(memory.received, received, {rows.size() * row});
        copy_rows(stream, dim, rows.size(), {packed, 0, rows.size()},
                  {memory.image, rows.begin - wanted.begin, wanted.size()});
        received += rows.size() * row;
    }
    const Range kept{std::max(held.begin, wanted.begin), std::min(held.end, wanted.end)};
    if (kept.size() > 0)
        copy_rows(stream, dim, kept.size(), {part, kept.begin - held.begin, held.size()},
                  {memory.image, kept.begin - wanted.begin, wanted.size()});
    return memory.image;
}

class HaloOp final : public Op {
public:
    HaloOp(WindowedOp of, std::vector<Cut> cuts)
        : of_(std::move(of)), cuts_(std::move(cuts)), name_(fmt::format("{}_with_halo", of_.op->name())) {
        for_all_places([&](const std::vector<int>& places) {
            Window own = of_.window;
            for (std::size_t i = 0; i < cuts_.size(); ++i)
                (cuts_[i].dim == 1 ? own.height : own.width) = strip(i, places).window;
            parts_.push_back(of_.over(own));
        });
    }

    std::string_view name() const override { return name_; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return of_.op->infer(in); }
    bool ignores(std::size_t input) const override { return of_.op->ignores(input); }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        return of_.op->placements(in); // of the axes that cut no image
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType> out) const override {
        return of_.op->flops(in, out);
    }
    std::optional<Transfer> transfer() const override { return Transfer{cuts_[0].axis, Collective::halo}; }

    std::optional<Substitute> with_halo(int axis, int ranks, std::span<const TensorType>,
                                        std::span<const Placement> inputs) const override {
        return make(of_, cuts_, axis, ranks, inputs);
    }
    static std::optional<Substitute> make(const WindowedOp& of, std::vector<Cut> cuts, int axis, int ranks,
                                          std::span<const Placement> inputs);

    std::vector<Sent> halos(std::span<const TensorType> in, const std::vector<int>& coordinate) const override {
        std::vector<Sent> sent;
        for (const Cut& cut : cuts_)
            sent.push_back({cut.axis, 0});
        for (std::size_t input = 0; input < of_.inputs.size(); ++input) {
            if (of_.inputs[input] != Reads::seen) continue;
            Shape shape = in[input].shape;
            for (const Cut& cut : cuts_)
                shape.set(cut.dim, cut.fetch.held(coordinate[static_cast<std::size_t>(cut.axis)]).size());
            for (std::size_t i = 0; i < cuts_.size(); ++i) {
                const int place = coordinate[static_cast<std::size_t>(cuts_[i].axis)];
                const std::int64_t row = row_count(shape, cuts_[i].dim) * bytes_of(in[input].dtype);
                sent[i].bytes += cuts_[i].fetch.sent_by(place) * row;
                shape.set(cuts_[i].dim, cuts_[i].fetch.wanted(place).size());
            }
        }
        return sent;
    }

    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType> out) const override;
    void run(Stream& stream, const Operands& a) const override;

private:
    const Strip& strip(std::size_t cut, const std::vector<int>& places) const {
        return cuts_[cut].strips[static_cast<std::size_t>(places[cut])];
    }

    template <class Visit> void for_all_places(const Visit& visit) const {
        std::vector<int> places(cuts_.size());
        const auto next = [&] {
            for (std::size_t i = places.size(); i-- > 0;) {
                if (++places[i] < cuts_[i].fetch.ranks()) return true;
                places[i] = 0;
            }
            return false;
        };
        do
            visit(places);
        while (next());
    }

    const Op& part_at(const std::vector<int>& places) const {
        std::size_t index = 0;
        for (std::size_t i = 0; i < places.size(); ++i)
            index = index * static_cast<std::size_t>(cuts_[i].fetch.ranks()) + static_cast<std::size_t>(places[i]);
        return *parts_[index];
    }

    bool is_idle(const std::vector<int>& places) const {
        for (std::size_t i = 0; i < places.size(); ++i)
            if (strip(i, places).idle) return true;
        return false;
    }

    // Of an output of this shape, what is made of it before it is cropped.
    Shape made(Shape shape, const std::vector<int>& places) const {
        for (std::size_t i = 0; of_.to_image && i < cuts_.size(); ++i)
            shape.set(cuts_[i].dim, strip(i, places).made.size());
        return shape;
    }

    bool is_cropped(const std::vector<int>& places) const {
        for (std::size_t i = 0; of_.to_image && i < cuts_.size(); ++i)
            if (strip(i, places).own != strip(i, places).made) return true;
        return false;
    }

    void crop(Stream& stream, const std::vector<int>& places, const View& from, const View& to) const;

    WindowedOp of_;
    std::vector<Cut> cuts_; // in the order of their axes
    std::string name_;
    std::vector<OpPointer> parts_; // by place on the first axis, then on the second
};

std::optional<Op::Substitute> HaloOp::make(const WindowedOp& of, std::vector<Cut> cuts, int axis, int ranks,
                                           std::span<const Placement> inputs) {
    int dim = -1;
    for (std::size_t i = 0; i < inputs.size() && dim < 0; ++i)
        for (const int of_space : dims_of_space)
            if (of.inputs[i] != Reads::whole && inputs[i] == Placement::shard(of_space)) dim = of_space;
    if (dim < 0 || std::ranges::find(cuts, dim, &Cut::dim) != cuts.end()) return std::nullopt;
    std::vector<Placement> wanted;
    for (const Reads reads : of.inputs)
        wanted.push_back(reads == Reads::whole ? Placement::replicate() : Placement::shard(dim));
    cuts.push_back(cut_along(of, axis, ranks, dim));
    const Placement made = of.sums ? Placement::partial() : Placement::shard(dim);
    return Substitute{std::make_shared<HaloOp>(of, std::move(cuts)), std::vector<Placement>(of.outputs, made),
                      std::move(wanted)};
}

// For the place that needs most: what a rank needs is then the same wherever it is.
std::int64_t HaloOp::workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                     std::span<const TensorType> out) const {
    std::int64_t most = 0;
    for_all_places([&](const std::vector<int>& places) {
        Room room;
        std::vector<TensorType> inputs(in.begin(), in.end()), outputs(out.begin(), out.end());
        for (std::size_t input = 0; input < inputs.size(); ++input)
            for (std::size_t i = 0; i < cuts_.size() && of_.inputs[input] == Reads::seen; ++i)
                inputs[input].shape.set(cuts_[i].dim, cuts_[i].fetch.held(places[i]).size());
        for (std::size_t input = 0; input < inputs.size(); ++input)
            for (std::size_t i = 0; i < cuts_.size() && of_.inputs[input] == Reads::seen; ++i)
                inputs[input].shape = room_for(cuts_[i], places[i], inputs[input], room).image.shape;
        if (is_cropped(places)) room.take(made(outputs[0].shape, places), outputs[0].dtype);
        for (TensorType& output : outputs)
            output.shape = made(output.shape, places);
        const std::int64_t own = is_idle(places) ? 0 : part_at(places).workspace_bytes(stream, inputs, outputs);
        most = std::max(most, room.bytes() + own);
    });
    return most;
}

void HaloOp::run(Stream& stream, const Operands& a) const {
    std::vector<int> places;
    for (const Cut& cut : cuts_)
        places.push_back(a.groups->axis(cut.axis).rank());
    Room room(static_cast<std::byte*>(a.workspace.memory()));
    std::vector<View> inputs(a.inputs.begin(), a.inputs.end()), outputs(a.outputs.begin(), a.outputs.end());
    for (std::size_t input = 0; input < inputs.size(); ++input)
        for (std::size_t i = 0; i < cuts_.size() && of_.inputs[input] == Reads::seen; ++i)
            inputs[input] = fetch(stream, cuts_[i], a.groups->axis(cuts_[i].axis), inputs[input], room);
    if (is_idle(places) || a.outputs[0].count() == 0) {
        if (a.outputs[0].count() > 0) std::visit([&](auto& s) { kernels::fill(s, a.outputs[0], 0); }, stream);
        return;
    }
    if (is_cropped(places)) outputs[0] = room.take(made(a.outputs[0].shape, places), a.outputs[0].dtype);
    const std::int64_t rest = a.workspace.bytes() - room.bytes();
    const View workspace = bytes_from(a.workspace, room.bytes(), {rest / bytes_of(a.workspace.dtype)});
    part_at(places).run(stream, {inputs, outputs, workspace, a.locality, a.groups});
    if (is_cropped(places)) crop(stream, places, outputs[0], a.outputs[0]);
}

// Rows that no window in reach sees get no gradient.
void HaloOp::crop(Stream& stream, const std::vector<int>& places, const View& from, const View& to) const {
    std::array<Range, 2> kept; // in `to`, by dim of space
    std::array<std::int64_t, 2> skipped{};
    bool covered = true;
    for (std::size_t dim = 0; dim < kept.size(); ++dim)
        kept[dim] = {0, to.shape[dims_of_space[dim]]};
    for (std::size_t i = 0; i < cuts_.size(); ++i) {
        const Strip& at = strip(i, places);
        const std::size_t dim = cuts_[i].dim == dims_of_space[0] ? 0 : 1;
        const Range rows{std::max(at.own.begin, at.made.begin), std::min(at.own.end, at.made.end)};
        covered = covered && rows == at.own;
        kept[dim] = {rows.begin - at.own.begin, rows.end - at.own.begin};
        skipped[dim] = rows.begin - at.made.begin;
    }
    if (!covered) std::visit([&](auto& s) { kernels::fill(s, to, 0); }, stream);
    const auto places_in = [&](const Shape& shape, std::int64_t row, std::int64_t column) {
        const std::int64_t line = shape[2] * shape[3];
        return kernels::RowPlaces{row * line + column * shape[3], line, shape[1] * line};
    };
    const kernels::Rows rows{to.shape[0], kept[0].size(), kept[1].size() * to.shape[3]};
    const kernels::RowPlaces source = places_in(from.shape, skipped[0], skipped[1]),
                             target = places_in(to.shape, kept[0].begin, kept[1].begin);
    std::visit([&](auto& s) { kernels::copy_rows(s, rows, from, source, to, target); }, stream);
}

} // namespace

std::optional<Op::Substitute> with_halo(const WindowedOp& op, int axis, int ranks, std::span<const Placement> inputs) {
    return HaloOp::make(op, {}, axis, ranks, inputs);
}

} // namespace tessera
