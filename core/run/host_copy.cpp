// SPDX-License-Identifier: Apache-2.0
// Copies between the host and the stream's memory; on a CPU there is nothing to copy.
#include "core/run/host_copy.hpp"

#include "kernels/copy.hpp"

namespace tessera {

HostCopy::HostCopy(Stream& stream, const View& tensor) : stream_(stream), tensor_(tensor) {
    if (!std::holds_alternative<CpuStream>(stream)) memory_ = Buffer(tensor.bytes());
}

void HostCopy::load() {
    if (memory_.bytes() > 0) std::visit([&](auto& s) { kernels::download(s, tensor_, view()); }, stream_);
}

void HostCopy::store() {
    if (memory_.bytes() > 0) std::visit([&](auto& s) { kernels::upload(s, view(), tensor_); }, stream_);
}

float number(Stream& stream, const View& tensor) {
    float value = 0;
    std::visit([&](auto& s) { kernels::download(s, tensor, View(&value, tensor.shape, DType::f32)); }, stream);
    return value;
}

} // namespace tessera
