// SPDX-License-Identifier: Apache-2.0
// The step input by which ops draw random numbers of each sample, whatever rank it is on. Private to core/ops.
#pragma once

#include "core/graph/graph.hpp"
#include "kernels/draw.hpp"

namespace tessera {

// host: (B, draw_words), of each sample of the micro-batch.
inline void write_draws(const StepState& state, const View& host) {
    for (std::int64_t row = 0; row < host.shape[0]; ++row)
        kernels::write_draw(
            View(host.as<std::int32_t>() + row * kernels::draw_words, {kernels::draw_words}, DType::i32), state.seed,
            static_cast<std::uint64_t>(state.step), static_cast<std::uint64_t>(state.first_sample + row));
}

inline ValueId draws(Graph& graph, std::int64_t samples) {
    return graph.step_input("dropout.places", {{samples, kernels::draw_words}, DType::i32}, write_draws);
}

} // namespace tessera
