// SPDX-License-Identifier: Apache-2.0
// The cross entropy with the vocabulary in shards, so that no rank holds all logits: each takes the statistics of its
// columns, those of all shards are gathered and combined, and with them each has the losses and its part of the
// gradient.
#pragma once

#include "kernels/cross_entropy.hpp"
#include "kernels/vocabulary_shard.hpp"

// logits, dlogits: (N, Vs) f32, bf16 or f16, the columns [first, first + Vs) of the whole; Vs may be 0. What lies
// behind the classes is padding, which is not read and gets the gradient 0. Targets are classes of the whole
// vocabulary, or ignore_index; N is their count. The statistics name one that is out of range as cross_entropy does;
// for the gradient it is like ignore_index.
namespace tessera::kernels {

// statistics: (3, N) f32. statistics[0,n] = the largest logit, but at least the lowest float; statistics[1,n] = sum_v
// exp(logits[n,v] - statistics[0,n]); statistics[2,n] = the logit of the target, or 0 when the shard does not have it.
// A row whose target is ignore_index has the lowest float, 0 and 0.
void cross_entropy_shard_statistics(CpuStream& stream, ConstView logits, ConstView targets, VocabularyShard shard,
                                    View statistics);
void cross_entropy_shard_statistics(CudaStream& stream, ConstView logits, ConstView targets, VocabularyShard shard,
                                    View statistics);

// combined[:,n]: the statistics of the whole row; shards are added in their order.
// shards: (S, 3, N) f32    combined: (3, N) f32, not in the shards' memory
void combine_cross_entropy_shards(CpuStream& stream, ConstView shards, View combined);
void combine_cross_entropy_shards(CudaStream& stream, ConstView shards, View combined);

// losses and dlogits as above. scale may be null where dlogits is: losses alone. dlogits may be the logits' memory.
void cross_entropy_shard_gradient(CpuStream& stream, ConstView logits, ConstView targets, VocabularyShard shard,
                                  ConstView scale, ConstView combined, View losses, View dlogits);
void cross_entropy_shard_gradient(CudaStream& stream, ConstView logits, ConstView targets, VocabularyShard shard,
                                  ConstView scale, ConstView combined, View losses, View dlogits);

} // namespace tessera::kernels
