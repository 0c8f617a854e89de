// SPDX-License-Identifier: Apache-2.0
// Segments of slabs, which two threads take in turn. A write through the system's cache, and the sync behind it, took
// 3 to 6 times as long here as O_DIRECT does, and takes memory and time from those who train beside.
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
constexpr std::int64_t page = 4096; // what O_DIRECT wants addresses, places and sizes to be multiples of

struct Segment {
    const SlabToWrite* slab;
    std::int64_t first, bytes; // in the slab
};

class SegmentWriter {
public:
    SegmentWriter(const File& file, const std::optional<File>& direct, const std::vector<Segment>& segments,
                  const std::atomic<bool>& given_up)
        : file_(file), direct_(direct), segments_(segments), given_up_(given_up) {}

    void run() {
        try {
            for (std::size_t i; (i = next_++) < segments_.size();) {
                if (given_up_) throw SystemError(fmt::format("cannot finish {}: given up", file_.path()));
                hash_blocks(segments_[i]);
                write(segments_[i]);
            }
        } catch (...) {
            next_ = segments_.size(); // the other thread need not go on
            throw;
        }
    }

private:
    // The blocks that begin in the segment.
    static void hash_blocks(const Segment& segment) {
        const ConstView& data = segment.slab->data;
        const Blocks blocks(data.shape, data.dtype);
        std::int64_t low = 0, high = blocks.size();
        while (low < high) {
            const std::int64_t middle = (low + high) / 2;
            if (blocks.first_byte(middle) < segment.first)
                low = middle + 1;
            else
                high = middle;
        }
        for (; low < blocks.size() && blocks.first_byte(low) < segment.first + segment.bytes; ++low)
            segment.slab->slab->block_hashes[static_cast<std::size_t>(low)] =
                Hash::of(static_cast<const std::byte*>(data.data) + blocks.first_byte(low),
                         blocks.box(low).count.count() * bytes_of(data.dtype));
    }

    void write(const Segment& segment) {
        const std::byte* memory = static_cast<const std::byte*>(segment.slab->data.data) + segment.first;
        const std::int64_t place = segment.slab->slab->first_byte + segment.first;
        std::int64_t done = 0;
        if (direct_ && place % page == 0) done = write_direct(place, memory, segment.bytes / page * page);
        if (done < segment.bytes) file_.write_at(place + done, memory + done, segment.bytes - done);
    }

    // What was written: all, or nothing where the file system will not.
    std::int64_t write_direct(std::int64_t place, const std::byte* memory, std::int64_t bytes) {
        if (bytes == 0) return 0;
        if (reinterpret_cast<std::uintptr_t>(memory) % page == 0)
            return direct_->write_at_once(place, memory, bytes) ? bytes : 0;
        thread_local Buffer aligned;
        if (aligned.bytes() == 0) aligned = Buffer(segment_bytes);
        std::memcpy(aligned.data(), memory, static_cast<std::size_t>(bytes));
        return direct_->write_at_once(place, aligned.data(), bytes) ? bytes : 0;
    }

    const File& file_;
    const std::optional<File>& direct_;
    const std::vector<Segment>& segments_;
    const std::atomic<bool>& given_up_;
    std::atomic<std::size_t> next_{0};
};

} // namespace

void write_slabs(const File& file, const std::vector<SlabToWrite>& slabs, const std::atomic<bool>& given_up) {
    std::vector<Segment> segments;
    for (const SlabToWrite& slab : slabs)
        for (std::int64_t first = 0; first < slab.data.bytes(); first += segment_bytes)
            segments.push_back({&slab, first, std::min(segment_bytes, slab.data.bytes() - first)});
    const std::optional<File> direct = File::open_direct(file.path());
    SegmentWriter writer(file, direct, segments, given_up);
    if (segments.size() < 2) return writer.run();
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

} // namespace tessera
