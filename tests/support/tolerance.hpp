// SPDX-License-Identifier: Apache-2.0
// The one table of tolerances, by element type and kind of computation. Widening one needs a reason in the commit.
#pragma once

#include "kernels/error.hpp"
#include "kernels/tensor.hpp"

#include <cmath>

namespace tessera {

enum class Kind {
    rounding,          // the exact value rounded once or twice
    function,          // an elementary function: some units in the last place
    sum,               // a sum of many elements, against the sum of their magnitudes
    product,           // a matrix product, against the product of the magnitudes
    product_tf32,      // the same with f32 factors of 10 bits of mantissa
    norm,              // statistics of a row and what is scaled by them
    loss,              // the difference of a logarithm and a logit
    random,            // a random number mapped to a range or a distribution
    update,            // some steps of an optimizer
    finite_difference, // a gradient against central differences of a double reference
    directional,       // a slope along a random direction, against differences of f32 results and the gradient's norm
    sharded,           // parts computed apart against the whole and its largest element: sums in another order
    other_device,  // the GPU against the CPU, relative to the largest element: other functions, sums in another order
    training,      // losses of 20 steps on another device, and norms to ten times as much
    reordered,     // some training steps whose gradients are summed in another order
    curve,         // 200 steps against f32: means of 20 losses; of f32, with products in TF32 (tests/core/loss_curves)
    low_precision, // a whole op in bf16 or f16 against f32, as the norm of the difference over the norm
};

// |actual - expected| <= relative * magnitude + absolute, the magnitude being |expected| where a test knows no better.
struct Tolerance {
    double relative;
    double absolute;
};

// Numbers below 2^-14 have fewer bits: half a unit there is 2^-25.
inline Tolerance f16_tolerance(Kind kind) {
    constexpr double rounding = 1.0 / 2048, smallest = 3e-8; // half a unit in the last place of 11 bits
    switch (kind) {
    case Kind::rounding:
    case Kind::function:
    case Kind::loss:
    case Kind::update:
        return {rounding, smallest + 1e-7};
    case Kind::sum:
        return {rounding, smallest + 1e-6};
    case Kind::product:
        return {2 * rounding, 1e-5};
    case Kind::norm:
        return {rounding, 1e-5};
    case Kind::random:
        return {rounding, smallest + 2e-6};
    case Kind::finite_difference:
        return {2 * rounding, 1e-4};
    case Kind::sharded:
    case Kind::other_device:
        return {2 * rounding, 1e-6};
    case Kind::training:
        return {1e-3, 0};
    case Kind::curve:
        return {4e-4, 0};
    case Kind::low_precision:
        return {2 * rounding, 0};
    default:
        return {0, 0};
    }
}

inline Tolerance tolerance(DType dtype, Kind kind) {
    constexpr double bf16_rounding = 1.0 / 256; // half a unit in the last place of 8 bits
    const bool f32 = dtype == DType::f32, e4m3 = dtype == DType::f8e4m3;
    if (e4m3 || dtype == DType::f8e5m2) {
        if (kind == Kind::low_precision) return {e4m3 ? 1.0 / 16 : 1.0 / 8, 0}; // half a unit in the last place
        if (kind == Kind::curve) return {1e-2, 0};
        if (kind == Kind::product) return {1.0 / 2048, 1e-6}; // Hopper adds a few of these products with 14 bits
    }
    if (dtype == DType::f16) return f16_tolerance(kind);
    if (!f32 && dtype != DType::bf16) return {0, 0};
    switch (kind) {
    case Kind::rounding:
        return f32 ? Tolerance{1.2e-7, 1e-37} : Tolerance{bf16_rounding, 1e-37};
    case Kind::function:
        return f32 ? Tolerance{4e-7, 1e-7} : Tolerance{bf16_rounding, 1e-7};
    case Kind::sum:
        return f32 ? Tolerance{1e-6, 1e-12} : Tolerance{bf16_rounding, 1e-6};
    case Kind::product:
        return f32 ? Tolerance{2e-6, 1e-6} : Tolerance{2 * bf16_rounding, 1e-5};
    case Kind::product_tf32: // two factors, each cut rather than rounded at worst: 2^-10 each
        return f32 ? Tolerance{1.0 / 512, 1e-6} : Tolerance{0, 0};
    case Kind::norm:
        return f32 ? Tolerance{2e-6, 2e-6} : Tolerance{bf16_rounding, 1e-5};
    case Kind::loss:
        return f32 ? Tolerance{4e-7, 1e-6} : Tolerance{bf16_rounding, 1e-6};
    case Kind::random:
        return f32 ? Tolerance{1.2e-7, 2e-6} : Tolerance{bf16_rounding, 2e-6};
    case Kind::update:
        return f32 ? Tolerance{1e-6, 1e-6} : Tolerance{bf16_rounding, 1e-6};
    case Kind::finite_difference:
        return f32 ? Tolerance{1e-5, 1e-5} : Tolerance{2 * bf16_rounding, 1e-4};
    case Kind::directional: // rounded results, divided by a distance of 0.02
        return f32 ? Tolerance{1e-4, 0} : Tolerance{0, 0};
    case Kind::sharded:
        return f32 ? Tolerance{1e-6, 1e-12} : Tolerance{2 * bf16_rounding, 1e-6};
    case Kind::other_device: // bf16: an intermediate result on the other side of a rounding
        return f32 ? Tolerance{5e-6, 1e-12} : Tolerance{2 * bf16_rounding, 1e-6};
    case Kind::training:
        return f32 ? Tolerance{2e-5, 0} : Tolerance{5e-3, 0};
    case Kind::reordered:
        return f32 ? Tolerance{1e-5, 0} : Tolerance{0, 0};
    case Kind::curve:
        return f32 ? Tolerance{3e-4, 0} : Tolerance{3e-3, 0};
    case Kind::low_precision:
        return f32 ? Tolerance{0, 0} : Tolerance{2 * bf16_rounding, 0};
    }
    throw InternalError("a kind without tolerance");
}

} // namespace tessera
