// SPDX-License-Identifier: Apache-2.0
// Copies between element types, and memory filled with one value.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

namespace tessera::kernels {

// y[i] = x[i] in y's type: a plain copy when the types are equal, rounded to nearest even to bf16 or f16.
// Each f32, bf16 or f16, or both of one other type; equal counts; else InternalError. The views do not overlap.
void cast(CpuStream& stream, ConstView x, View y);
void cast(CudaStream& stream, ConstView x, View y);

// y[i] = x[i], unless the scalar `factor` is 0, as of a step that is not taken. All f32, equal counts.
void replace(CpuStream& stream, ConstView factor, ConstView x, View y);
void replace(CudaStream& stream, ConstView factor, ConstView x, View y);

// Copies between the host's memory and the stream's, equal counts and types. When the call returns, all work of the
// stream is done, and the result is there.
void upload(CpuStream& stream, ConstView host, View y);
void upload(CudaStream& stream, ConstView host, View y);
void download(CpuStream& stream, ConstView x, View host);
void download(CudaStream& stream, ConstView x, View host);

// The same without waiting: the host's values must stay until end_uploads, which returns when all uploads that were
// begun are done, whatever else the stream still does.
void begin_upload(CpuStream& stream, ConstView host, View y);
void begin_upload(CudaStream& stream, ConstView host, View y);
void end_uploads(CpuStream& stream);
void end_uploads(CudaStream& stream);

// Block i of `count`, of `bytes` bytes, is copied from i * from_step bytes behind from's first byte to i * to_step
// bytes behind to's. Of the views only the memory counts; from and to do not overlap.
struct Blocks {
    std::int64_t count = 0;
    std::int64_t bytes = 0;
    std::int64_t from_step = 0;
    std::int64_t to_step = 0;
};
void copy_blocks(CpuStream& stream, const Blocks& blocks, ConstView from, View to);
void copy_blocks(CudaStream& stream, const Blocks& blocks, ConstView from, View to);

// y: f32, bf16 or f16
void fill(CpuStream& stream, View y, float value);
void fill(CudaStream& stream, View y, float value);

} // namespace tessera::kernels
