// SPDX-License-Identifier: Apache-2.0
// Models by name: from the [model] section to a graph. Says nothing about ranks, memory or optimizers.
#pragma once

#include "core/config.hpp"
#include "core/data/sample_form.hpp"
#include "core/graph/graph.hpp"
#include "core/layers/builder.hpp"
#include "core/optimizers/loss_scale.hpp"

#include <functional>
#include <span>
#include <utility>

namespace tessera {

inline constexpr Key<std::string> model_type{
    "model.type", "gpt",
    "gpt (GPT-2, LLaMA), bert, t5, vit, or layers: as the tables [[model.layers]] put it together"};
inline constexpr Key<std::int64_t> model_layers{"model.n_layers", 4, "transformer blocks"};
inline constexpr Key<std::int64_t> model_heads{"model.n_heads", 4, "attention heads per block"};
inline constexpr Key<std::int64_t> model_kv_heads{
    "model.n_kv_heads", 0, "heads of keys and values, each shared by as many of n_heads; 0: n_heads"};
inline constexpr Key<std::int64_t> model_head_dim{"model.head_dim", 0, "width of a head; 0: model.dim / model.n_heads"};
inline constexpr Key<std::int64_t> model_dim{"model.dim", 128, "width of the residual stream"};
inline constexpr Key<std::int64_t> model_hidden_dim{
    "model.hidden_dim", 0, "width inside the MLP; 0: 4 * model.dim, gated 8/3 of it in whole 32s"};
inline constexpr Key<bool> model_gated{"model.gated_mlp", false,
                                       "a third product gates the MLP's activations: with silu SwiGLU"};
inline constexpr Key<std::string> model_positions{"model.position_embedding", "learned",
                                                  "learned: a table; rope: queries and keys turn by their positions"};
inline constexpr Key<double> model_rope_theta{"model.rope_theta", 10000, "rope: base of the angles"};
inline constexpr Key<std::string> model_rope_scaling{
    "model.rope_scaling", "none", "rope, for longer sequences than were trained: none, linear or llama3"};
inline constexpr Key<double> model_rope_factor{"model.rope_factor", 8,
                                               "linear, llama3: slow angles turn so much slower"};
inline constexpr Key<double> model_rope_low{
    "model.rope_low_freq_factor", 1, "llama3: slow is what makes fewer turns than this in rope_original_seq_len"};
inline constexpr Key<double> model_rope_high{"model.rope_high_freq_factor", 4,
                                             "llama3: what makes more turns than this is not scaled"};
inline constexpr Key<std::int64_t> model_rope_trained{"model.rope_original_seq_len", 8192,
                                                      "llama3: tokens of the sequences that were trained"};
inline constexpr Key<bool> model_bias{"model.bias", false, "biases in linear layers and layer norms"};
inline constexpr Key<double> model_dropout{"model.dropout", 0.0, "probability of dropping an activation in training"};
inline constexpr Key<std::string> model_activation{"model.activation", "gelu", "gelu, gelu_tanh, relu, silu or tanh"};
inline constexpr Key<std::string> model_norm{"model.norm", "layer_norm", "layer_norm or rms_norm"};
inline constexpr Key<double> model_norm_epsilon{"model.norm_eps", 1e-5,
                                                "added to the variance or mean square in norms"};
inline constexpr Key<bool> model_tied_head{"model.tied_head", true, "the output head shares the token embedding"};
inline constexpr Key<double> model_deviation{"model.init_std", 0.02, "standard deviation of initial weights"};
inline constexpr Key<std::int64_t> model_experts{
    "model.moe_experts", 0, "experts of a mixture of experts, each an MLP, in place of a block's MLP; 0: none"};
inline constexpr Key<std::int64_t> model_choices{"model.moe_top_k", 2, "experts that a token goes to"};
inline constexpr Key<std::int64_t> model_moe_every{"model.moe_every", 1,
                                                   "of so many blocks the last has experts, the others an MLP"};
inline constexpr Key<double> model_capacity{
    "model.moe_capacity_factor", 1.25,
    "room of an expert for tokens of a sample, times what an even load would take; a choice beyond is dropped"};
inline constexpr Key<double> model_balance{"model.moe_balance_coefficient", 0.01,
                                           "of the loss that keeps the experts' load even"};
inline constexpr Key<double> model_z{"model.moe_z_coefficient", 0.001,
                                     "of the loss that keeps the router's logits small"};

inline constexpr Key<std::int64_t> loss_ignore_index{
    "loss.ignore_index", -1,
    "gpt: targets of this number count in no mean; -1: none but those that the data leave out"};

inline constexpr Key<double> loss_label_smoothing{
    "loss.label_smoothing", 0,
    "gpt: the share of a target that is spread over all tokens in training; evaluations have none"};

inline constexpr Key<std::int64_t> model_document_end{
    "model.document_end_token", -1,
    "gpt: a document ends with this token, and attention stays within documents; -1: it sees all that came before"};

enum class Purpose { train, evaluate, generate };

// What comes from elsewhere: the batch from [training], the form of a sample from the data.
struct ModelSizes {
    std::int64_t batch = 1; // rows of one micro-batch
    SampleForm sample;
    Precision precision;
    std::int64_t units_per_step = 1; // of all ranks and micro-batches: the gradient is of the mean loss over them
    // Rows of a step that go on where the step before ended (data.order = "stream"), and how often they begin anew:
    // layers/carried_states.hpp. 0: each window stands for itself.
    std::int64_t streams = 0, steps_per_epoch = 0;
    // Sample 0 of step s is number s * samples of a step + samples_ahead of the run: below 0 where steps were smaller.
    std::int64_t samples_ahead = 0;
    // Of an evaluation: of all its micro-batches and ranks, in a step. 0: those of one micro-batch.
    std::int64_t samples_evaluated = 0;
};

// A number that is told of each step or evaluation: what a value holds, summed over units, by another such value.
struct ToldValue {
    std::string name; // "accuracy"; with several "NAME.accuracy", "NAME.loss"
    ValueId value;
    ValueId by = no_value; // none: the number of units
};

using NamedNumbers = std::vector<std::pair<std::string, double>>;

// A table of sums that an evaluation makes numbers of, or tells as it is.
struct ToldTable {
    std::string name;
    ValueId value;
    // Appends numbers, of sums over so many units; none: the table itself is told.
    std::function<void(std::span<const double> sums, double units, NamedNumbers& told)> finish{};
    // Its rows are of samples: what several steps or programs of an evaluation hold is put one behind the other.
    bool of_samples = false;
};

// A loss, summed over units, and its factor in what is minimised.
struct WeightedLoss {
    ValueId value;
    double weight = 1;
};

struct Model {
    Graph graph;
    std::vector<ValueId> inputs;      // of the sample's fields, (B, …) each; Purpose::generate: the first, of t5 both
    std::vector<WeightedLoss> losses; // scalars f32; the last is what is differentiated. Not for generate
    std::vector<ToldValue> told{};    // scalars f32, besides; the losses among them where there are several
    ValueId counted = no_value;       // what the losses are the mean over (count_targets); none: all units
    std::vector<ToldTable> told_tables{};  // of evaluations
    ValueId logits = no_value;             // (B, T, at least V); Purpose::generate only
    std::optional<LossScale> loss_scale{}; // in f16; Purpose::train only
    // Losses beside the last, and those that keep mixtures of experts at work; Purpose::train only.
    std::vector<LossBeside> losses_beside{};
    std::vector<RunningStatistics> running{}; // of batch norms; Purpose::train only
    std::vector<CarriedState> carried{};      // of recurrent layers; Purpose::train only
    std::vector<ValueId> routings{};          // (3) each, summed over tokens: the losses of kernels/route.hpp
    std::int64_t choices = 0;                 // of a token, in each of them

    ValueId loss() const { return losses.back().value; }
};

// The forward graph, whose inputs are the sample's fields, in their order. Parameters are the same, in the same order,
// for every purpose. ConfigError for values that make no model, with the key's place.
Model build_model(const Config& config, const ModelSizes& sizes, Purpose purpose);

// Adds an input for each of the sample's fields; Purpose::generate: for the first alone.
void declare_inputs(Model& model, const ModelSizes& sizes, Purpose purpose);
// The losses are the mean over the targets that are not -1, or over their class weights (V): sets model.counted. It is
// one for all losses of a model.
void count_targets(Model& model, ValueId targets, ValueId class_weights = no_value);
// The targets without those of the number `left_out` (-1: none), which is how losses want them.
ValueId targets_without(Model& model, const std::string& name, ValueId targets, std::int64_t left_out);
// What the gradient of a loss of this weight is multiplied by. It is of the mean over the step's units.
ValueId gradient_scale(Model& model, const Config& config, const ModelSizes& sizes, const std::string& name,
                       double weight);

std::int64_t parameter_count(const Graph& graph);
std::int64_t trained_parameter_count(const Graph& graph);
// Of those that work on a token: of a mixture's experts the chosen ones.
std::int64_t active_parameter_count(const Model& model);
// "1,234 parameters", or "1,234 parameters, of which 567 work on a token".
std::string parameters_text(const Model& model);

} // namespace tessera
