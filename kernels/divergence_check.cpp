// SPDX-License-Identifier: Apache-2.0
// The checks of a judgement and their sentences.
#include "kernels/divergence_check.hpp"

#include "kernels/check.hpp"

namespace tessera::kernels {

void check_judgement(const ConstView& loss, const ConstView& norm, const ConstView& factor,
                     const DivergenceState& state, const ConstView& kept, const ConstView& verdict) {
    for (const ConstView& one : {loss, norm, factor, kept, ConstView(state.good_steps), ConstView(state.skipped_steps)})
        check_count("judge_step", "a scalar", one, 1);
    check_count("judge_step", "the window of norms", state.norms, state.losses.count());
    check_count("judge_step", "the verdict", verdict, divergence_verdict_count);
}

} // namespace tessera::kernels
