// SPDX-License-Identifier: Apache-2.0
// Models by name: from the [model] section to a graph. Says nothing about ranks, memory or optimizers.
#pragma once

#include "core/config.hpp"
#include "core/graph/graph.hpp"
#include "core/layers/builder.hpp"
#include "core/optimizers/loss_scale.hpp"

namespace tessera {

inline constexpr Key<std::string> model_type{"model.type", "gpt", "which model: gpt"};
inline constexpr Key<std::int64_t> model_layers{"model.n_layers", 4, "transformer blocks"};
inline constexpr Key<std::int64_t> model_heads{"model.n_heads", 4, "attention heads per block"};
inline constexpr Key<std::int64_t> model_dim{"model.dim", 128, "width of the residual stream"};
inline constexpr Key<std::int64_t> model_hidden_dim{"model.hidden_dim", 0, "width inside the MLP; 0: 4 * model.dim"};
inline constexpr Key<bool> model_bias{"model.bias", false, "biases in linear layers and layer norms"};
inline constexpr Key<double> model_dropout{"model.dropout", 0.0, "probability of dropping an activation in training"};
inline constexpr Key<std::string> model_activation{"model.activation", "gelu", "gelu, gelu_tanh, relu or silu"};
inline constexpr Key<std::string> model_norm{"model.norm", "layer_norm", "layer_norm or rms_norm"};
inline constexpr Key<bool> model_tied_head{"model.tied_head", true, "the output head shares the token embedding"};
inline constexpr Key<double> model_deviation{"model.init_std", 0.02, "standard deviation of initial weights"};

enum class Purpose { train, evaluate, generate };

// The sizes that come from elsewhere: the batch from [training], the vocabulary from the data.
struct ModelSizes {
    std::int64_t batch = 1; // rows of one micro-batch
    std::int64_t sequence_length = 0;
    std::int64_t vocabulary = 0;
    Precision precision;
    std::int64_t tokens_per_step = 1; // of all ranks and micro-batches: the gradient is of the mean loss over them
};

struct Model {
    Graph graph;
    ValueId tokens = no_value;             // (B, T) i32
    ValueId targets = no_value;            // (B, T) i32; not for Purpose::generate
    ValueId loss = no_value;               // scalar f32, summed over tokens; not for Purpose::generate
    ValueId logits = no_value;             // (B, T, rows_in_memory(V)); Purpose::generate only
    std::optional<LossScale> loss_scale{}; // in f16; Purpose::train only
};

// The forward graph. Parameters are the same, in the same order, for every purpose. ConfigError for values that make no
// model, with the key's place.
Model build_model(const Config& config, const ModelSizes& sizes, Purpose purpose);

std::int64_t parameter_count(const Graph& graph);

} // namespace tessera
