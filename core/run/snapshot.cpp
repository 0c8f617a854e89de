// SPDX-License-Identifier: Apache-2.0
// Copies of tensors one behind the other in host memory.
#include "core/run/snapshot.hpp"

#include "kernels/copy.hpp"

#include <cstring>
#include <utility>

namespace tessera {
namespace {

// Where the data's copy begins behind `end` bytes, which it moves to its own end. What is large begins where it can be
// written from past the system's cache.
std::int64_t place_for(const ConstView& data, std::int64_t& end) {
    constexpr std::int64_t page = 4096, large = 64 << 10;
    const std::int64_t place = data.bytes() < large ? end : (end + page - 1) / page * page;
    end = place + align_up(data.bytes());
    return place;
}

} // namespace

bool keeps_copy(const Config& config, const Stream& stream) {
    const bool beside = config.get(checkpoint_asynchronous) && config.get(checkpoint_interval) > 0;
    return beside || !std::holds_alternative<CpuStream>(stream);
}

std::int64_t Snapshot::bytes_for(const std::vector<TensorPart>& parts) {
    std::int64_t end = 0;
    for (const TensorPart& part : parts)
        place_for(part.data, end);
    return end;
}

Snapshot::Snapshot(Stream& stream, Buffer memory) : stream_(stream), memory_(std::move(memory)) {
    if (memory_.bytes() > 0) std::memset(memory_.data(), 0, static_cast<std::size_t>(memory_.bytes()));
}

void Snapshot::take(std::vector<TensorPart>& parts) {
    std::int64_t end = 0;
    for (TensorPart& part : parts) {
        const View copy(memory_.data() + place_for(part.data, end), part.data.shape, part.data.dtype);
        if (part.data.count() > 0) std::visit([&](auto& s) { kernels::download(s, part.data, copy); }, stream_);
        part.data = copy;
    }
}

} // namespace tessera
