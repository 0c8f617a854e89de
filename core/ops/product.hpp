// SPDX-License-Identifier: Apache-2.0
// What ops that multiply matrices say of one product. Private to core/ops.
#pragma once

#include "kernels/matmul.hpp"

namespace tessera {

inline double flops_of(const Matmul& product) {
    return 2.0 * static_cast<double>(product.m) * static_cast<double>(product.n) * static_cast<double>(product.k);
}

inline std::int64_t workspace_of(const Stream& stream, const Matmul& product) {
    return std::visit([&](auto& s) { return kernels::matmul_workspace_bytes(s, product); }, stream);
}

} // namespace tessera
