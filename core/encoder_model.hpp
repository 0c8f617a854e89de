// SPDX-License-Identifier: Apache-2.0
// Encoders: BERT on text (Devlin et al. 2019) and ViT on images (Dosovitskiy et al. 2021).
#pragma once

#include "core/model.hpp"

namespace tessera {

inline constexpr Key<std::int64_t> model_token_types{"model.token_types", 2,
                                                     "bert: rows of the table of token types; 0: no such table"};
inline constexpr Key<double> model_mask_probability{"model.mask_probability", 0.15,
                                                    "bert: of a sample's tokens, those to be found"};
inline constexpr Key<bool> model_mask_head{
    "model.mask_head", true,
    "bert: a layer and a norm before the table that finds masked tokens, and a bias behind; false: the table alone"};
inline constexpr Key<std::int64_t> model_mask_token{
    "model.mask_token", -1, "bert: the id that hides a token; -1: a new one behind the vocabulary"};
inline constexpr Key<std::int64_t> model_padding_token{
    "model.padding_token", -1, "bert, t5: the id that fills up a sample, which nothing attends to; -1: none"};
inline constexpr Key<std::int64_t> model_class_token{
    "model.class_token", -1, "bert: the id that begins a sample, which is never masked; -1: none"};
inline constexpr Key<std::int64_t> model_separator_token{
    "model.separator_token", -1, "bert: the id after which the next token type begins, never masked; -1: none"};
inline constexpr Key<std::int64_t> model_patch{"model.patch_size", 16, "vit: height and width of a patch, in pixels"};

// Text, to find the tokens that are masked: of each sample a share, which is drawn by seed, sample and epoch. Texts
// with a label each: a classifier on the first token, with "pooler.weight" (C, 1, C) and tanh, then "classifier.weight"
// (classes, C), in place of the head that finds tokens. Parameters "embedding.weight" (V, C), "position.weight" (T, C),
// "type.weight" (types, C), "embedding_norm", blocks of layers::post_norm_block, "transform.weight" (C, C),
// "transform_norm" and "head.bias" (V), with the table as the head's weight, and their biases.
Model build_bert(const Config& config, const ModelSizes& sizes, Purpose purpose);

// Images (H, W, channels) and their labels. Parameters "patches.weight" (C, P, P, channels), "class.weight" (1, C),
// "position.weight" (1 + patches, C), blocks of layers::transformer_block, "norm", "head.weight" (classes, 1, C).
Model build_vit(const Config& config, const ModelSizes& sizes, Purpose purpose);

} // namespace tessera
