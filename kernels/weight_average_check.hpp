// SPDX-License-Identifier: Apache-2.0
// What these kernels check on the host, for every kind of device.
#pragma once

#include "kernels/check.hpp"

#include <span>

namespace tessera::kernels {

// Throws InternalError where lists differ in length, or views in their counts.
inline void check_alike(const char* kernel, std::span<const View> one, std::span<const View> other) {
    check_tensors(kernel, "the others", other.size(), one.size());
    for (std::size_t i = 0; i < one.size(); ++i)
        check_count(kernel, "the other", other[i], one[i].count());
}

inline void check_average(ConstView share, ConstView factor, std::span<const View> weights,
                          std::span<const View> averages) {
    check_count("average_weights", "the share", share, 1);
    check_count("average_weights", "the factor", factor, 1);
    check_alike("average_weights", weights, averages);
}

} // namespace tessera::kernels
