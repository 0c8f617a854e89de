// SPDX-License-Identifier: Apache-2.0
// The sentences of infer(): what was found, what is expected. Private to core/ops.
#pragma once

#include "core/graph/op.hpp"
#include "kernels/error.hpp"

#include <fmt/format.h>

namespace tessera {

inline void expect_dims(std::string_view what, const TensorType& type, int at_least) {
    if (type.shape.rank() < at_least)
        throw ConfigError(fmt::format("{} is {}, expected at least {} dims", what, type.shape.text(), at_least));
}

inline void expect_shape(std::string_view what, const Shape& found, const Shape& expected) {
    if (found != expected) throw ConfigError(fmt::format("{} is {}, expected {}", what, found.text(), expected.text()));
}

inline void expect_dtype(std::string_view what, DType found, DType expected) {
    if (found != expected)
        throw ConfigError(fmt::format("{} is {}, expected {}", what, name_of(found), name_of(expected)));
}

inline void expect_floating(std::string_view what, DType found) {
    if (found != DType::f32 && found != DType::bf16 && found != DType::f16)
        throw ConfigError(fmt::format("{} is {}, expected f32, bf16 or f16", what, name_of(found)));
}

} // namespace tessera
