// SPDX-License-Identifier: Apache-2.0
// Copies of tensors one behind the other in host memory.
#include "core/run/snapshot.hpp"

#include "kernels/copy.hpp"

#include <cstring>
#include <utility>

namespace tessera {

std::int64_t Snapshot::bytes_for(const std::vector<TensorPart>& parts) {
    std::int64_t bytes = 0;
    for (const TensorPart& part : parts)
        bytes += align_up(part.data.bytes());
    return bytes;
}

Snapshot::Snapshot(Stream& stream, Buffer memory) : stream_(stream), memory_(std::move(memory)) {
    if (memory_.bytes() > 0) std::memset(memory_.data(), 0, static_cast<std::size_t>(memory_.bytes()));
}

void Snapshot::take(std::vector<TensorPart>& parts) {
    std::byte* place = memory_.data();
    for (TensorPart& part : parts) {
        const View copy(place, part.data.shape, part.data.dtype);
        if (part.data.count() > 0) std::visit([&](auto& s) { kernels::download(s, part.data, copy); }, stream_);
        part.data = copy;
        place += align_up(copy.bytes());
    }
}

} // namespace tessera
