// SPDX-License-Identifier: Apache-2.0
// T5 (Raffel et al. 2020): an encoder of the source, a decoder of the target that attends to it.
#pragma once

#include "core/model.hpp"

namespace tessera {

inline constexpr Key<std::int64_t> model_decoder_layers{"model.decoder_layers", 0,
                                                        "t5: blocks of the decoder; 0: as many as model.n_layers"};
inline constexpr Key<std::int64_t> model_buckets{"model.relative_buckets", 32,
                                                 "t5: classes of distances between tokens, each with a bias per head"};
inline constexpr Key<std::int64_t> model_far{"model.relative_max_distance", 128,
                                             "t5: distances from here on are one class"};
inline constexpr Key<std::int64_t> model_end_token{
    "model.end_token", -1, "t5: the id that ends a target, where generate stops; -1: the tokenizer's, or none"};
inline constexpr Key<std::int64_t> model_start_token{"model.start_token", 0, "t5: the id before a target's first"};

// Of a key at `distance` = key - query: exact up to half of the classes, then by logarithms up to `far`. Of two
// directions each has half of the classes; of one, keys behind the query are in class 0.
std::int64_t relative_bucket(std::int64_t distance, bool both_directions, std::int64_t buckets, std::int64_t far);

// Samples whose first field is the source (S) and whose last is the target (T), i32, -1 where nothing is to be found.
// Purpose::generate has both inputs, too: logits behind target t - 1 are at place t, whatever stands from t on.
// Parameters "embedding.weight" (V, C), "encoder.relative_bias.weight" (buckets, H), "encoder.layers.I" with attention
// and mlp, "encoder.norm", the same of "decoder" with "cross" between the two, and "head.weight" where it is not tied.
Model build_t5(const Config& config, const ModelSizes& sizes, Purpose purpose);

} // namespace tessera
