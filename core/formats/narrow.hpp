// SPDX-License-Identifier: Apache-2.0
// f32 elements on their way into a file of bf16.
#pragma once

#include "kernels/tensor.hpp"

#include <cstring>
#include <optional>

namespace tessera {

// What a tensor is stored as when f32 ones are to be `narrow`.
inline DType stored_dtype(DType dtype, std::optional<DType> narrow) {
    return dtype == DType::f32 && narrow ? *narrow : dtype;
}

// The same elements as `wanted`, which is the part's dtype, or bf16 where that is f32: then rounded to nearest even, in
// the part's own memory.
inline ConstView narrow_in_place(const View& part, DType wanted) {
    if (part.dtype == wanted) return part;
    const auto* wide = part.as<float>();
    auto* memory = static_cast<std::byte*>(part.memory());
    for (std::int64_t i = 0; i < part.count(); ++i) { // from the front: each is read before its place is written
        const BFloat16 value(wide[i]);
        std::memcpy(memory + i * 2, &value, 2);
    }
    return {part.data, part.shape, DType::bf16};
}

} // namespace tessera
