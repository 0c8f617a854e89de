// SPDX-License-Identifier: Apache-2.0
// The layers that a config can put together, [[model.layers]], with the keys of each.
#pragma once

#include "core/config.hpp"
#include "core/layers/builder.hpp"

#include <functional>
#include <span>
#include <string_view>
#include <vector>

namespace tessera {

inline constexpr Key<std::string> layer_name{"model.layers[].name", "",
                                             "what other layers call it; its type and number"};
inline constexpr Key<std::string> layer_type{
    "model.layers[].type", "",
    "what it does: linear, convolution, relu, max_pool, add, concat, cross_entropy, …; \"?\" lists them"};
inline constexpr Key<std::vector<std::string>> layer_inputs{"model.layers[].inputs", "",
                                                            "layers further up, or fields of the data; none: the layer "
                                                            "before, at first the data; of a loss also what is wanted"};
inline constexpr Key<bool> layer_bias{
    "model.layers[].bias", true, "convolution, transposed_convolution, gru, layer_norm, linear, lstm: with a bias"};
inline constexpr Key<bool> layer_bidirectional{
    "model.layers[].bidirectional", false,
    "gru, lstm: a second half of the result is of the steps in the opposite order"};
inline constexpr Key<std::int64_t> layer_blocks{"model.layers[].blocks", 1,
                                                "residual_blocks: how many, one behind the other"};
inline constexpr Key<bool> layer_bottleneck{
    "model.layers[].bottleneck", false,
    "residual_blocks: three convolutions, the middle one of a quarter of the filters, instead of two"};
inline constexpr Key<std::vector<double>> layer_class_weights{
    "model.layers[].class_weights", "",
    "cross_entropy: how much a target of each class weighs in the mean, at least 0; none: 1"};
inline constexpr Key<bool> layer_count_padding{"model.layers[].count_padding", true,
                                               "average_pool: padding counts in the mean"};
inline constexpr Key<double> layer_delta{"model.layers[].delta", 1,
                                         "huber: where the error is no longer squared but grows linearly"};
inline constexpr Key<std::vector<std::int64_t>> layer_dilation{
    "model.layers[].dilation", "1",
    "convolution, transposed_convolution, max_pool: distance of the taps, in height and width"};
inline constexpr Key<double> layer_dropout{
    "model.layers[].dropout", 0, "gru, lstm: probability of dropping an activation between layers in training"};
inline constexpr Key<double> layer_epsilon{"model.layers[].eps", 1e-5,
                                           "batch_norm, residual_blocks: added to the variance"};
inline constexpr Key<std::int64_t> layer_filters{"model.layers[].filters", 0,
                                                 "convolution, residual_blocks: channels of the result"};
inline constexpr Key<bool> layer_global{"model.layers[].global", false,
                                        "average_pool, max_pool: one window, the whole image"};
inline constexpr Key<std::int64_t> layer_groups{"model.layers[].groups", 1,
                                                "convolution: groups of channels, each with filters of its own"};
inline constexpr Key<std::int64_t> layer_hidden{"model.layers[].hidden", 0, "gru, lstm: units"};
inline constexpr Key<double> layer_init_scale{"model.layers[].init_scale", 1,
                                              "batch_norm, residual_blocks: scale at the start; of a block's last "
                                              "norm 0 where none is said"};
inline constexpr Key<double> layer_deviation{"model.layers[].init_std", 0,
                                             "products, embedding: standard deviation of initial weights; 0: He's, "
                                             "gru, lstm sqrt(1 / 3 hidden), embedding 0.05"};
inline constexpr Key<std::int64_t> layer_ignore_index{
    "model.layers[].ignore_index", -1,
    "cross_entropy: targets of this number count in no mean; -1: none but those that the data leave out"};
inline constexpr Key<std::vector<std::int64_t>> layer_kernel{
    "model.layers[].kernel", "", "convolution, average_pool, max_pool: height and width of the window"};
inline constexpr Key<double> layer_label_smoothing{
    "model.layers[].label_smoothing", 0,
    "cross_entropy: the share of a target that is spread over all classes in training; evaluations have none"};
inline constexpr Key<std::int64_t> layer_layers{"model.layers[].layers", 1,
                                                "gru, lstm: one on top of the other, all of the same width"};
inline constexpr Key<double> layer_momentum{
    "model.layers[].momentum", 0.1,
    "batch_norm, residual_blocks: share of a step's mean and variance, of its micro-batches, in those for evaluation"};
inline constexpr Key<std::vector<std::int64_t>> layer_output_padding{
    "model.layers[].output_padding", "0",
    "transposed_convolution: rows and columns more at the end, of which a convolution with the stride sees nothing"};
inline constexpr Key<std::int64_t> layer_outputs{"model.layers[].outputs", 0, "embedding, linear: width of the result"};
inline constexpr Key<std::vector<std::int64_t>> layer_padding{
    "model.layers[].padding", "0", "convolution, average_pool, max_pool: on each side, in height and width"};
inline constexpr Key<double> layer_positive_weight{
    "model.layers[].positive_weight", 1, "binary_cross_entropy: how much a target of 1 weighs against one of 0"};
inline constexpr Key<double> layer_probability{"model.layers[].probability", 0.5,
                                               "dropout: of dropping an activation in training"};
inline constexpr Key<std::vector<std::int64_t>> layer_stride{
    "model.layers[].stride", "",
    "convolutions, pools, residual_blocks (the first's): in height and width; none: 1, of a pool its kernel"};
inline constexpr Key<double> layer_weight{"model.layers[].weight", 1, "losses: its factor in what is minimised"};

namespace layers {

class CarriedStates;

// What comes out of a layer: (B, …), each sample in one row where it is flat, whatever its shape in memory.
struct LayerValue {
    ValueId id = no_value;
    bool flat = false;
};
// The value in memory as it is seen: (B, N) where it is flat.
ValueId as_seen(Builder&, const LayerValue&);
std::string text_of(const Graph&, const LayerValue&); // the shape of a sample, as it is seen

// Of two products with nothing but element-wise layers in between, the first's results may be shared out, as the
// second's inputs are: Megatron's pair. A product that is no part of one is whole.
enum class Sharing { whole, first, second };

struct LayerPlace {
    Builder& builder; // in the layer's scope
    std::vector<LayerValue> inputs;
    std::int64_t classes = 0; // of the data
    int number = 0;           // of the layer; of the first, where it is several (LayerType::layers)
    Sharing sharing = Sharing::whole;
    ValueId class_weights = no_value; // of a loss that has some
    ValueId scale = no_value;         // of a loss, whose gradient is taken of scale * loss; no_value: only evaluated
    CarriedStates& carried;
    bool soft_labels = false; // a loss compares with the probability of each class, not with a label
};

// Builds the layer; what it says of its inputs names none: who calls it adds the names. A loss is summed over samples.
using BuildLayer = std::function<LayerValue(const LayerPlace&)>;

enum class LayerKind {
    elementwise, // and what treats channels each on their own
    product,     // multiplies by weights
    loss,
    other,
};

struct LayerType {
    std::string_view name;
    LayerKind kind;
    std::size_t fewest_inputs, most_inputs;
    std::vector<std::string_view> keys;             // beside name, type and inputs
    BuildLayer (*read)(const ConfigItem&);          // ConfigError for values that make no layer, with their place
    bool (*can_pair)(const ConfigItem&) = {};       // of a product; null: always
    std::int64_t (*layers)(const ConfigItem&) = {}; // of many products: for pipelines it is so many layers
    bool has_classes = false;                       // of a loss: an accuracy can be told beside it
    bool is_recurrent = false;                      // has a state that goes from step to step of a sequence
    bool has_numbers = false;                       // of a loss: what it compares are numbers of one kind, not logits
    bool is_binary = false; // of a loss: logits of outcomes that are each there or not, with numbers 1 or 0
};

// Alphabetical.
std::span<const LayerType> layer_catalog();
// ConfigError, with the place, for no type, an unknown one, or a key that is none of the type's.
const LayerType& type_of(const ConfigItem&);

BuildLayer read_activation(const ConfigItem&);
BuildLayer read_add(const ConfigItem&);
BuildLayer read_concat(const ConfigItem&);
BuildLayer read_average_pool(const ConfigItem&);
BuildLayer read_batch_norm(const ConfigItem&);
BuildLayer read_convolution(const ConfigItem&);
BuildLayer read_cross_entropy(const ConfigItem&);
BuildLayer read_dropout(const ConfigItem&);
BuildLayer read_embedding(const ConfigItem&);
BuildLayer read_flatten(const ConfigItem&);
// (B, T, C) -> (B, T, directions * hidden): the formulas of kernels/recurrent.hpp, which are PyTorch's nn.GRU and
// nn.LSTM, with their names and order of gates: "weight_ih_l0" (directions, gates, hidden, C), "weight_hh_l0"
// (directions, gates, hidden, hidden), "bias_ih_l0", "bias_hh_l0" (directions, gates, hidden), and "…_l1" and so on of
// the layers above. They go whole on every axis but data's and pipeline's.
BuildLayer read_gru(const ConfigItem&);
BuildLayer read_layer_norm(const ConfigItem&);
BuildLayer read_linear(const ConfigItem&);
BuildLayer read_lstm(const ConfigItem&);
BuildLayer read_max_pool(const ConfigItem&);
BuildLayer read_pointwise_loss(const ConfigItem&);
BuildLayer read_residual_blocks(const ConfigItem&);
BuildLayer read_rms_norm(const ConfigItem&);
BuildLayer read_transposed_convolution(const ConfigItem&);

std::int64_t count_residual_blocks(const ConfigItem&);

} // namespace layers
} // namespace tessera
