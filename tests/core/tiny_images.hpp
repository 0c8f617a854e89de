// SPDX-License-Identifier: Apache-2.0
// Small models of [[model.layers]], perceptrons and convolutional networks, and images and numbers for them.
#pragma once

#include "core/config_catalog.hpp"
#include "core/data/array_samples.hpp"
#include "core/data/options.hpp"
#include "tests/core/tiny_gpt.hpp"

#include <array>
#include <fmt/format.h>
#include <memory>
#include <random>
#include <string_view>

namespace tessera {

inline constexpr std::string_view image_training = R"(
[data]
reader = "idx"
files = ["none"]
label_files = ["none"]
image_shape = [8, 7, 3]
classes = 5
[model]
type = "layers"
[training]
steps = 6
global_batch_size = 16
local_batch_size = 2
max_norm = 1.0
[optimizer]
lr = 0.01
[lr_scheduler]
warmup_steps = 2
)";

inline constexpr std::string_view tiny_mlp = R"(
[[model.layers]]
type = "flatten"
[[model.layers]]
name = "fc1"
type = "linear"
outputs = 24
[[model.layers]]
type = "relu"
[[model.layers]]
name = "fc2"
type = "linear"
outputs = 12
[[model.layers]]
type = "dropout"
probability = 0.2
[[model.layers]]
name = "norm"
type = "layer_norm"
[[model.layers]]
name = "fc3"
type = "linear"
outputs = 10
[[model.layers]]
type = "gelu"
[[model.layers]]
name = "fc4"
type = "linear"
outputs = 5
[[model.layers]]
type = "cross_entropy"
)";

// A residual branch, groups, both pools, and a second head with a loss of its own.
inline constexpr std::string_view tiny_cnn = R"(
[[model.layers]]
name = "conv1"
type = "convolution"
filters = 8
kernel = 3
padding = 1
[[model.layers]]
name = "one"
type = "relu"
[[model.layers]]
name = "conv2"
type = "convolution"
filters = 8
kernel = [3, 1]
padding = [1, 0]
groups = 2
bias = false
[[model.layers]]
name = "sum"
type = "add"
inputs = ["conv2", "one"]
[[model.layers]]
type = "max_pool"
kernel = 2
[[model.layers]]
name = "conv3"
type = "convolution"
filters = 6
kernel = 2
stride = 1
[[model.layers]]
type = "silu"
[[model.layers]]
name = "flat"
type = "flatten"
[[model.layers]]
name = "fc1"
type = "linear"
outputs = 16
[[model.layers]]
type = "gelu"
[[model.layers]]
name = "fc2"
type = "linear"
outputs = 5
[[model.layers]]
name = "loss"
type = "cross_entropy"
[[model.layers]]
name = "pooled"
type = "average_pool"
global = true
inputs = ["sum"]
[[model.layers]]
type = "flatten"
[[model.layers]]
name = "side"
type = "linear"
outputs = 5
[[model.layers]]
name = "side_loss"
type = "cross_entropy"
weight = 0.25
)";

// Two residual blocks with batch norms, the second with a stride and a projection, as in ResNet, but smooth: where a
// rounding error decides which side of a kink a pixel is on, nothing after is near.
inline constexpr std::string_view tiny_resnet = R"(
[[model.layers]]
name = "stem"
type = "convolution"
filters = 4
kernel = 3
padding = 1
bias = false
[[model.layers]]
name = "stem_norm"
type = "batch_norm"
[[model.layers]]
name = "one"
type = "silu"
[[model.layers]]
name = "conv1"
type = "convolution"
filters = 4
kernel = 3
padding = 1
bias = false
[[model.layers]]
name = "norm1"
type = "batch_norm"
momentum = 0.3
[[model.layers]]
type = "silu"
[[model.layers]]
name = "conv2"
type = "convolution"
filters = 4
kernel = 3
padding = 1
bias = false
[[model.layers]]
name = "norm2"
type = "batch_norm"
init_scale = 0.5
[[model.layers]]
name = "sum1"
type = "add"
inputs = ["norm2", "one"]
[[model.layers]]
name = "two"
type = "silu"
[[model.layers]]
name = "conv3"
type = "convolution"
filters = 8
kernel = 3
stride = 2
padding = 1
bias = false
[[model.layers]]
name = "norm3"
type = "batch_norm"
eps = 1e-3
[[model.layers]]
name = "projection"
type = "convolution"
filters = 8
kernel = 1
stride = 2
bias = false
inputs = ["two"]
[[model.layers]]
name = "sum2"
type = "add"
inputs = ["norm3", "projection"]
[[model.layers]]
type = "silu"
[[model.layers]]
type = "average_pool"
global = true
[[model.layers]]
type = "flatten"
[[model.layers]]
name = "fc"
type = "linear"
outputs = 12
bias = false
[[model.layers]]
name = "row_norm"
type = "batch_norm"
eps = 0.1
[[model.layers]]
name = "head"
type = "linear"
outputs = 5
[[model.layers]]
name = "loss"
type = "cross_entropy"
)";

// Smaller images and larger ones again, in groups.
inline constexpr std::string_view tiny_transposed = R"(
[[model.layers]]
name = "down"
type = "convolution"
filters = 6
kernel = 3
stride = 2
padding = 1
[[model.layers]]
type = "silu"
[[model.layers]]
name = "up"
type = "transposed_convolution"
filters = 4
kernel = [3, 2]
stride = 2
padding = [1, 0]
groups = 2
[[model.layers]]
type = "gelu"
[[model.layers]]
type = "flatten"
[[model.layers]]
name = "fc"
type = "linear"
outputs = 12
[[model.layers]]
type = "tanh"
[[model.layers]]
name = "head"
type = "linear"
outputs = 5
[[model.layers]]
name = "loss"
type = "cross_entropy"
)";

// Two numbers of six.
inline constexpr std::string_view tiny_regression = R"(
[data]
reader = "csv"
files = ["none"]
features = 6
target_columns = ["y", "z"]
[model]
type = "layers"
[training]
steps = 20
global_batch_size = 8
local_batch_size = 2
[optimizer]
lr = 0.02
[lr_scheduler]
warmup_steps = 2
[[model.layers]]
name = "fc1"
type = "linear"
outputs = 16
[[model.layers]]
type = "tanh"
[[model.layers]]
name = "fc2"
type = "linear"
outputs = 12
[[model.layers]]
type = "gelu_tanh"
[[model.layers]]
name = "norm"
type = "rms_norm"
[[model.layers]]
name = "fc3"
type = "linear"
outputs = 8
[[model.layers]]
type = "silu"
[[model.layers]]
name = "fc4"
type = "linear"
outputs = 2
[[model.layers]]
type = "huber"
)";

inline Config image_config(std::string_view layers, const std::vector<std::string>& overrides = {}) {
    return Config::parse(fmt::format("{}{}", image_training, layers), "layers.toml", overrides, known_keys());
}

// Images whose brightest corner tells their class.
inline std::unique_ptr<Dataset> tiny_images() {
    constexpr std::int64_t count = 50, elements = 8 * 7 * 3;
    std::mt19937 generator(3);
    SampleArrays all;
    all.count = count;
    std::vector<std::uint8_t> pixels;
    std::vector<std::int32_t> labels;
    for (std::int64_t i = 0; i < count; ++i) {
        labels.push_back(static_cast<std::int32_t>(i % 5));
        for (std::int64_t at = 0; at < elements; ++at)
            pixels.push_back(static_cast<std::uint8_t>(generator() % 100 + (at / 9 % 5 == i % 5 ? 150 : 0)));
    }
    all.inputs = std::move(pixels);
    all.targets = std::move(labels);
    SampleForm form{{{"image", {8, 7, 3}, DType::f32}, {"label", {}, DType::i32}}, 5};
    return std::make_unique<ArraySamples>(std::move(form), "images", std::move(all), SampleArrays(), 0.2);
}

// Rows of six numbers, and two that follow from them.
inline std::unique_ptr<Dataset> tiny_numbers() {
    constexpr std::int64_t count = 50;
    std::mt19937 generator(5);
    std::vector<float> inputs, targets;
    for (std::int64_t i = 0; i < count; ++i) {
        for (int at = 0; at < 6; ++at)
            inputs.push_back(static_cast<float>(generator() % 1000) / 500 - 1);
        const float* row = inputs.data() + i * 6;
        targets.insert(targets.end(), {2 * row[0] - row[3] + 1, row[1] * row[2]});
    }
    SampleArrays all;
    all.count = count;
    all.inputs = std::move(inputs);
    all.targets = std::move(targets);
    return std::make_unique<ArraySamples>(SampleForm{{{"features", {6}, DType::f32}, {"targets", {2}, DType::f32}}, 0},
                                          "numbers", std::move(all), SampleArrays(), 0.2);
}

// What black is in each channel of a sample.
inline std::array<float, 3> blacks(const Dataset& data, std::int64_t sample) {
    return {data.black(sample, 0), data.black(sample, 1), data.black(sample, 2)};
}

// What a model of the tests is trained on.
inline std::unique_ptr<Dataset> data_of(const Config& config) {
    if (config.get(data_reader) == "csv") return tiny_numbers();
    return reads_text(config) ? tiny_dataset(config) : tiny_images();
}

} // namespace tessera
