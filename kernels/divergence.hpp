// SPDX-License-Identifier: Apache-2.0
// Whether a step's loss and gradient are what the steps before let expect, decided before the update.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

namespace tessera::kernels {

struct DivergenceLimits {
    // A number further above the mean of the last good steps than so many of their standard deviations is an outlier;
    // 0: none is. The loss is taken as it is; of the norm the logarithm, since norms spread by factors.
    float z_score = 0;
    // A factor of 0 that comes in is a loss scale's: it has skipped the step already, and found nothing odd in it.
    bool scaled = false;
};

// losses: (W) f32, and norms: (W) f32, their logarithms, of the last W good steps, each in its turn. One f32:
// good_steps, which goes on from 2 W at W, since a float does not count for ever, and skipped_steps.
struct DivergenceState {
    View losses, norms, good_steps, skipped_steps;
};

// What is wrong with a step, added up; 0: nothing.
enum Divergence { loss_not_finite = 1, norm_not_finite = 2, loss_outlier = 4, norm_outlier = 8 };
inline constexpr std::int64_t divergence_verdict_count = 3; // of it, and the z scores of loss and norm (0: not known)

// Judges one step. Where nothing is wrong, kept = factor and the step joins the good ones; else kept = 0, with which an
// update changes nothing (kernels/update.hpp), and skipped_steps grows by one. Outliers are looked for as soon as W
// steps were good. verdict: (divergence_verdict_count) f32. All else: one f32.
// A deviation is taken for no less than a thousandth of the mean loss, or of one for a logarithm, else a plateau would
// make an outlier of every step. Sums are fp32, in two passes; their order is fixed on each kind of device.
void judge_step(CpuStream& stream, ConstView loss, ConstView norm, ConstView factor, const DivergenceLimits& limits,
                const DivergenceState& state, View kept, View verdict);
void judge_step(CudaStream& stream, ConstView loss, ConstView norm, ConstView factor, const DivergenceLimits& limits,
                const DivergenceState& state, View kept, View verdict);

} // namespace tessera::kernels
