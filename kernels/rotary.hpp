// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding (Su et al. 2021, "RoFormer"): pairs of a head's elements turn by angles that grow with the
// position, so that the product of a query and a key depends on their distance.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>

namespace tessera::kernels {

enum class RotaryPairs {
    interleaved, // elements 2 i and 2 i + 1 of a head, as in the paper
    half,        // elements i and i + D / 2, as in Hugging Face's models
};

// How angles shrink for positions beyond those that a model was trained on: a pair whose angle makes less than
// `low_turns` full turns within `trained` positions turns `factor` times slower, one that makes more than `high_turns`
// as fast as before, those between in between (Llama 3.1: Grattafiori et al. 2024). low_turns = high_turns = infinity:
// all turn slower, so that positions are interpolated (Chen et al. 2023).
struct RotaryScaling {
    double factor = 1; // at least 1
    double low_turns = 1, high_turns = 4;
    double trained = 8192; // positions

    // What the angle of a position, of which a full turn has `positions`, is multiplied by.
    double of_angle(double positions) const {
        const double turns = trained / positions;
        if (turns < low_turns) return 1 / factor;
        if (turns > high_turns) return 1;
        const double part = (turns - low_turns) / (high_turns - low_turns);
        return (1 - part) / factor + part;
    }
};

struct Rotary {
    double theta = 10000; // the base, at least 1
    RotaryPairs pairs = RotaryPairs::interleaved;
    std::int64_t first_position = 0; // of x[:,0]
    std::int64_t heads = 0;          // only the first so many turn: 2 H of a packed (B, T, 3 H, D). 0: all
    std::int64_t period = 0;         // of each so many heads the first `heads` turn; 0: of all
    RotaryScaling scaling{};
};

// x: (B, T, H, D), f32, bf16 or f16, in place; D is even.
// Pair i of x[b,t,h] turns by the angle (first_position + t) * theta^(-2 i / D), scaled: y0 = x0 cos - x1 sin,
// y1 = x0 sin + x1 cos. Angles are counted in fixed-point parts of a full turn, so that their error stays near 1e-7 at
// any position. Other shapes and a theta below 1 are an InternalError.
void rotary(CpuStream& stream, const Rotary& which, View x);
void rotary(CudaStream& stream, const Rotary& which, View x);

// The gradient in place of dy: it turns back by the same angles.
void rotary_gradient(CpuStream& stream, const Rotary& which, View dy);
void rotary_gradient(CudaStream& stream, const Rotary& which, View dy);

// The arithmetic that all devices share. Checks the view.
struct RotarySizes {
    std::int64_t batch, time, heads, pairs; // x is (batch, time, heads, 2 pairs)
    std::int64_t turning, period;           // of each `period` heads the first so many turn
    double octaves;                         // pair i turns by 2^(-i octaves) radians a position, times its scale

    std::int64_t all_turning() const { return heads / period * turning; }
    // The turning-th of the heads that turn.
    std::int64_t head(std::int64_t number) const { return number / turning * period + number % turning; }
};
RotarySizes rotary_sizes(const Rotary& which, const ConstView& x);

// One radian as a part of a full turn, in units of 2^-64 turns.
inline constexpr double rotary_turn = 0x1p64 / 6.283185307179586477;

} // namespace tessera::kernels
