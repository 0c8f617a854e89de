// SPDX-License-Identifier: Apache-2.0
// The layers a model is put together from, alphabetical: one function each, in a file of its own.
// x, y: (B, T, C) unless said otherwise. No word of parallelism stands here: roles tell strategies what a weight is.
#pragma once

#include "core/layers/builder.hpp"
#include "core/ops/ops.hpp"

#include <optional>

namespace tessera::layers {

struct AttentionOptions {
    std::int64_t width = 0;    // C
    std::int64_t heads = 0;    // H
    std::int64_t kv_heads = 0; // G: heads of keys and of values, each shared by H / G neighbours; 0: H
    std::int64_t head_dim = 0; // D; 0: C / H
    bool causal = true;
    std::optional<RotaryOptions> rotary{}; // positions turn queries and keys
    bool bias = false;
    double dropout = 0;
    double deviation = 0.02;
    double output_deviation = 0.02;
    double scale = 0; // of the scores; 0: 1 / sqrt(D)
};
// What it sees beyond x: other keys and values (B, S, C), segments and a bias (ops::CrossAttentionInputs), where there
// are such.
struct AttentionContext {
    ValueId memory = no_value, segments = no_value, key_segments = no_value, bias = no_value;
};
// Parameters "qkv.weight" (3, H, D, C), "out.weight" (C, H, D) and, with bias, "qkv.bias" (3, H, D), "out.bias" (C).
// With G below H, by group of R = H / G heads (Ainslie et al. 2023): "qkv.weight" (G, R + 2, D, C), of each group the
// rows of its queries, then of keys, then of values; "qkv.bias" (G, R + 2, D); "out.weight" (C, G, R, D).
// With other keys "q.weight" (1, H, D, C) and "kv.weight" (2, H, D, C) in place of the first, and their biases.
ValueId attention(Builder&, std::string_view name, const AttentionOptions&, ValueId x,
                  const AttentionContext& context = {});

// y = table[token] + position[t]: "embedding.weight" (V, C), "position.weight" (T, C). tokens: (B, T) i32. Without
// learned positions the table alone.
struct EmbeddingOptions {
    std::int64_t vocabulary = 0;
    std::int64_t width = 0;
    double dropout = 0;
    double deviation = 0.02;
    bool learned_positions = true;
};
struct Embedded {
    ValueId x;
    ValueId table; // in the compute type, with its padding: a tied head multiplies by it
};
Embedded embedding(Builder&, const EmbeddingOptions&, ValueId tokens);

struct MlpOptions {
    std::int64_t width = 0;  // C
    std::int64_t hidden = 0; // F
    Activation activation = Activation::gelu;
    bool gated = false; // activation(gate(x)) * up(x) in the place of activation(up(x)) (Shazeer 2020)
    bool bias = false;
    double dropout = 0;
    double deviation = 0.02;
    double output_deviation = 0.02;
};
// Parameters "up.weight" (F, C), "down.weight" (C, F), gated "gate.weight" (F, C), and their biases.
ValueId mlp(Builder&, std::string_view name, const MlpOptions&, ValueId x);

struct MoeOptions {
    std::int64_t experts = 0; // E; 0: an MLP
    std::int64_t choices = 2; // of a token
    double capacity_factor = 1.25;
    double balance = 0, z = 0; // coefficients of the losses beside the loss
    MlpOptions expert;
};
// Of a sample's tokens an expert takes: those of an even load, times the factor.
std::int64_t expert_capacity(const MoeOptions&, std::int64_t tokens);

struct Mixture {
    ValueId y;
    ValueId loss, losses; // ops::Routed
};
// A mixture of experts (Shazeer et al. 2017; kernels/route.hpp): each token goes to the MLPs that a linear router ranks
// highest, as far as they have room, and y is the sum of their results, weighted by the router; where none has room, 0.
// Parameters "router.weight" (E, C), "up.weight" (E, F, C), "down.weight" (E, C, F), gated "gate.weight" (E, F, C), and
// the MLPs' biases.
Mixture moe(Builder&, std::string_view name, const MoeOptions&, ValueId x);

// What flows from block to block: sum + branch, the branch not yet added where there is one.
struct ResidualStream {
    ValueId sum = no_value;
    ValueId branch = no_value;
};

Norm norm_named(std::string_view name); // ConfigError for an unknown one
// The norm of the stream, whose branch is added to its sum in the same pass.
// Parameters "scale" (C), starting at one, and for layer_norm with bias "bias" (C).
ValueId norm(Builder&, std::string_view name, Norm kind, bool bias, ResidualStream& stream, double epsilon = 1e-5);

// norm(x + attention(x)), then norm(x + mlp(x)): a post-norm block (Vaswani et al. 2017), BERT's.
struct TransformerBlockOptions;
ValueId post_norm_block(Builder&, int layer, const TransformerBlockOptions&, ValueId x,
                        const AttentionContext& context);

struct TransformerBlockOptions {
    AttentionOptions attention;
    MlpOptions mlp;
    MoeOptions moe; // in place of the MLP where it has experts
    Norm norm = Norm::layer_norm;
    double norm_epsilon = 1e-5;
};
// x + attention(norm(x)), then x + mlp(norm(x)): a pre-norm block (Xiong et al. 2020). The last sum is left to the norm
// that follows. Returns the mixture of experts, if there is one.
std::optional<Mixture> transformer_block(Builder&, int layer, const TransformerBlockOptions&, ResidualStream& x,
                                         const AttentionContext& context = {});

} // namespace tessera::layers
