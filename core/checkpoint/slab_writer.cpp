// SPDX-License-Identifier: Apache-2.0
// Segments of a file in its own order, which two threads take in turn. A write through the system's cache, and the sync
// behind it, took 3 to 6 times as long here as O_DIRECT does, and takes memory and time from those who train beside;
// and a write for each of many small tensors longer than one for all of them.
#include "core/checkpoint/slab_writer.hpp"

#include "kernels/error.hpp"
#include "kernels/memory.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <future>
#include <optional>

namespace tessera {
namespace {

constexpr std::int64_t segment_bytes = 4 << 20;
constexpr std::int64_t large = 1 << 20; // slabs that are written from where they lie
constexpr std::int64_t page = 4096;     // what O_DIRECT wants addresses, places and sizes to be multiples of

bool is_aligned(const std::byte* memory) { return reinterpret_cast<std::uintptr_t>(memory) % page == 0; }

// Bytes of the file.
struct Segment {
    std::int64_t begin, end;
    std::int64_t size() const { return end - begin; }
};

// Bytes of the file that lie together in memory.
struct Stretch {
    std::int64_t first, end; // in the file
    const std::byte* memory;
    const SlabToWrite* slab; // null: of none
};

// In the file's order, without a gap.
std::vector<Stretch> stretches_of(const File& file, const FileImage& outside, const std::vector<SlabToWrite>& slabs) {
    std::vector<Stretch> stretches;
    for (const FileImage::Piece& piece : outside.pieces)
        stretches.push_back({piece.first, piece.first + std::ssize(piece.bytes),
                             reinterpret_cast<const std::byte*>(piece.bytes.data()), nullptr});
    for (const SlabToWrite& slab : slabs)
        stretches.push_back({slab.slab->first_byte, slab.slab->first_byte + slab.data.bytes(),
                             static_cast<const std::byte*>(slab.data.data), &slab});
    std::ranges::sort(stretches, {}, &Stretch::first);
    std::int64_t position = 0;
    for (const Stretch& one : stretches) {
        if (one.first != position) throw InternalError(fmt::format("{}: nothing for byte {}", file.path(), position));
        position = one.end;
    }
    if (position != outside.bytes) throw InternalError(fmt::format("{}: ends at byte {}", file.path(), position));
    return stretches;
}

// Large slabs have segments of their own, but for what behind them is not a whole page.
std::vector<Segment> segments_of(const std::vector<Stretch>& stretches, std::int64_t bytes) {
    std::vector<Segment> segments;
    std::int64_t position = 0;
    const auto cut_until = [&](std::int64_t end) {
        for (; position < end; position = segments.back().end)
            segments.push_back({position, std::min(end, position + segment_bytes)});
    };
    for (const Stretch& one : stretches) {
        if (one.slab == nullptr || one.end - one.first < large || one.first % page != 0 || !is_aligned(one.memory))
            continue;
        cut_until(one.first);
        cut_until(one.end / page * page);
    }
    cut_until(bytes);
    return segments;
}

class SegmentWriter {
public:
    SegmentWriter(const File& file, const std::optional<File>& direct, const std::vector<Stretch>& stretches,
                  const std::vector<Segment>& segments, const std::atomic<bool>& given_up)
        : file_(file), direct_(direct), stretches_(stretches), segments_(segments), given_up_(given_up) {}

    void run() {
        Buffer room;
        try {
            for (std::size_t i; (i = next_++) < segments_.size();) {
                if (given_up_) throw SystemError(fmt::format("cannot finish {}: given up", file_.path()));
                hash_blocks(segments_[i]);
                write(segments_[i], room);
            }
        } catch (...) {
            next_ = segments_.size(); // the other thread need not go on
            throw;
        }
    }

private:
    // Calls use(stretch, what of it lies in the segment).
    template <class Use> void for_each_stretch(Segment segment, const Use& use) const {
        auto one = std::ranges::upper_bound(stretches_, segment.begin, {}, &Stretch::end);
        for (; one != stretches_.end() && one->first < segment.end; ++one)
            use(*one, Segment{std::max(one->first, segment.begin), std::min(one->end, segment.end)});
    }

    // The blocks that begin in the segment.
    void hash_blocks(Segment segment) const {
        for_each_stretch(segment, [](const Stretch& stretch, Segment part) {
            if (stretch.slab == nullptr) return;
            const ConstView& data = stretch.slab->data;
            const Blocks blocks(data.shape, data.dtype);
            std::int64_t low = 0, high = blocks.size();
            while (low < high) {
                const std::int64_t middle = (low + high) / 2;
                if (stretch.first + blocks.first_byte(middle) < part.begin)
                    low = middle + 1;
                else
                    high = middle;
            }
            for (; low < blocks.size() && stretch.first + blocks.first_byte(low) < part.end; ++low)
                stretch.slab->slab->block_hashes[static_cast<std::size_t>(low)] = Hash::of(
                    stretch.memory + blocks.first_byte(low), blocks.box(low).count.count() * bytes_of(data.dtype));
        });
    }

    // The last page of the file is filled up with zeros, which are cut off again.
    void write(Segment segment, Buffer& room) const {
        const std::int64_t whole_pages = (segment.size() + page - 1) / page * page;
        const auto stretch = std::ranges::upper_bound(stretches_, segment.begin, {}, &Stretch::end);
        const std::byte* memory = stretch->memory + (segment.begin - stretch->first);
        if (stretch->end < segment.end || !is_aligned(memory) || whole_pages != segment.size()) {
            if (room.bytes() == 0) room = Buffer(segment_bytes);
            for_each_stretch(segment, [&](const Stretch& one, Segment part) {
                std::memcpy(room.data() + (part.begin - segment.begin), one.memory + (part.begin - one.first),
                            static_cast<std::size_t>(part.size()));
            });
            std::memset(room.data() + segment.size(), 0, static_cast<std::size_t>(whole_pages - segment.size()));
            memory = room.data();
        }
        if (direct_ && direct_->write_at_once(segment.begin, memory, whole_pages)) return;
        file_.write_at(segment.begin, memory, segment.size());
    }

    const File& file_;
    const std::optional<File>& direct_;
    const std::vector<Stretch>& stretches_;
    const std::vector<Segment>& segments_;
    const std::atomic<bool>& given_up_;
    std::atomic<std::size_t> next_{0};
};

} // namespace

void write_slabs(const File& file, const FileImage& outside, const std::vector<SlabToWrite>& slabs,
                 const std::atomic<bool>& given_up) {
    const std::vector<Stretch> stretches = stretches_of(file, outside, slabs);
    const std::vector<Segment> segments = segments_of(stretches, outside.bytes);
    file.reserve(outside.bytes); // in one piece, or each of the writes past the cache looks for its own
    const std::optional<File> direct = File::open_direct(file.path());
    SegmentWriter writer(file, direct, stretches, segments, given_up);
    if (segments.size() < 2) {
        writer.run();
    } else {
        std::future<void> other = std::async(std::launch::async, [&] { writer.run(); });
        std::exception_ptr failure;
        try {
            writer.run();
        } catch (...) { // the other thread first comes to its end
            failure = std::current_exception();
        }
        other.wait();
        if (failure) std::rethrow_exception(failure);
        other.get();
    }
    file.resize(outside.bytes);
}

} // namespace tessera
