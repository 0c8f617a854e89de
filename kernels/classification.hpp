// SPDX-License-Identifier: Apache-2.0
// What classification is judged by, beside its accuracy: counts of which class was taken for which, hits among the k
// largest logits, and scores side by side. Counts are f32, exact up to 2^24.
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

// counts[j,k]: of outcome k how many rows have no target (at most 1/2) and a logit of 0 or less or NaN, j = 0, no
// target and a logit above 0, 1, a target and no such logit, 2, both, 3. logits, targets: (N, K), targets f32   counts:
// (4, K) f32
void binary_counts(CpuStream& stream, ConstView logits, ConstView targets, View counts);
void binary_counts(CudaStream& stream, ConstView logits, ConstView targets, View counts);

// scores[first + n, :] = the first `columns` logits of row n, then its target + 1 (0: it is no class), where targets
// are i32, or its `columns` targets, where they are f32; what is no row of these is 0. scores: (R, columns + 1) or (R,
// 2 columns) f32   first: () i32
void place_scores(CpuStream& stream, std::int64_t columns, ConstView logits, ConstView targets, ConstView first,
                  View scores);
void place_scores(CudaStream& stream, std::int64_t columns, ConstView logits, ConstView targets, ConstView first,
                  View scores);

} // namespace tessera::kernels
