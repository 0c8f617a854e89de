// SPDX-License-Identifier: Apache-2.0
// What classification is judged by, beside its accuracy: counts of which class was taken for which, hits among the k
// largest logits, counts of scores. Counts are f32, exact up to 2^24.
#pragma once

#include "kernels/cross_entropy.hpp"

// logits: (N, W) f32, bf16 or f16, of which the first `classes` columns count; N is the count of `targets`, (N) i32. A
// target that is no class has no part in it. A NaN is never the largest.
namespace tessera::kernels {

// counts[t,p] = how many rows have the target t and their largest logit, of equals the first, at p.
// counts: (V, V) f32, V = `classes`   predicted: (N) i32, scratch
void confusion(CpuStream& stream, std::int64_t classes, ConstView logits, ConstView targets, View predicted,
               View counts);
void confusion(CudaStream& stream, std::int64_t classes, ConstView logits, ConstView targets, View predicted,
               View counts);

// hits[n] = 1 where the target's logit is among the k largest of its row, of equals the first ones, else 0. hits: (N)
// f32
void top_k_hits(CpuStream& stream, std::int64_t classes, std::int64_t k, ConstView logits, ConstView targets,
                View hits);
void top_k_hits(CudaStream& stream, std::int64_t classes, std::int64_t k, ConstView logits, ConstView targets,
                View hits);

// counts[t,b] = how many rows with the target t, 0 or 1, have a score in bin b of B: the score is logit 1 - logit 0,
// and bins are equally wide from -score_limit to score_limit, the first and the last with what lies beyond; a NaN is in
// the first. (Bins of probabilities would take all rows of a rare class for equal.) counts: (2, B) f32   bins: (N) i32,
// scratch
inline constexpr float score_limit = 32;
void score_counts(CpuStream& stream, ConstView logits, ConstView targets, View bins, View counts);
void score_counts(CudaStream& stream, ConstView logits, ConstView targets, View bins, View counts);

} // namespace tessera::kernels
