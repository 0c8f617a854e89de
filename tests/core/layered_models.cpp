// SPDX-License-Identifier: Apache-2.0
// Models of [[model.layers]]: an MLP and a CNN have the same bits on any ranks, and what does not fit is refused.
#include "core/config_catalog.hpp"
#include "core/data/array_samples.hpp"
#include "core/data/options.hpp"
#include "core/optimizers/optimizer.hpp"
#include "core/run/executor.hpp"
#include "core/run/experiment.hpp"
#include "core/run/host_copy.hpp"
#include "core/run/weights.hpp"
#include "kernels/error.hpp"
#include "parallel/communication/local.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <mutex>
#include <random>

using namespace tessera;
using testing::HasSubstr;

namespace {

constexpr std::string_view head = R"(
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

constexpr std::string_view mlp = R"(
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
outputs = 5
[[model.layers]]
type = "cross_entropy"
)";

// A residual branch, groups, both pools, and a second head with a loss of its own.
constexpr std::string_view cnn = R"(
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

Config config_of(std::string_view layers, const std::vector<std::string>& overrides) {
    return Config::parse(fmt::format("{}{}", head, layers), "layers.toml", overrides, known_keys());
}

// Images whose brightest corner tells their class.
std::unique_ptr<Dataset> some_images() {
    constexpr std::int64_t count = 40, elements = 8 * 7 * 3;
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

// What a run leaves: numbers of each step, then the weights, each whole.
struct Outcome {
    std::vector<float> numbers;
    std::map<std::string, std::vector<float>> weights;
    bool operator==(const Outcome&) const = default;
};

std::vector<float> floats_of(Stream& stream, const View& view) {
    HostCopy copy(stream, view);
    copy.load();
    const float* first = copy.view().as<float>();
    return {first, first + copy.view().count()};
}

void train(Config config, Communicator& communicator, std::mutex& mutex, Outcome& outcome) {
    Stream stream = CpuStream(1);
    const std::unique_ptr<Dataset> dataset = some_images();
    const Experiment experiment =
        plan_training(config, {communicator.rank(), communicator.size(), true}, dataset.get(), stream);
    const Program& program = experiment.train;
    Groups groups(program.layout.mesh, communicator);
    const Memory memory(experiment.memory, program.layout, groups, stream);
    Executor executor(program.layout, program.plan, memory, groups, stream);
    initialize_weights(program, executor, experiment.seed);
    initialize_states(program, executor);
    Loader loader(*dataset, SampleOrder(order_options(config, *dataset, Split::train, experiment.seed)),
                  experiment.train_loader(0));
    for (std::int64_t step = 0; step < experiment.steps; ++step) {
        const StepState state{experiment.seed, step, 0, 0.01, 0};
        executor.prepare(state);
        executor.run_micro_batches(state, experiment.batch.micro_batch, [&] { loader.next(stream, executor.batch()); });
        executor.update(state);
        if (communicator.rank() != 0) continue;
        for (const WeightedLoss& loss : program.model.losses)
            outcome.numbers.push_back(floats_of(stream, executor.view(loss.value))[0]);
        outcome.numbers.push_back(floats_of(stream, executor.view(experiment.gradient_norm))[0]);
    }
    const std::vector<TensorPart> parts = parts_to_save(program, memory_of(executor), communicator.rank());
    const std::lock_guard lock(mutex);
    for (const TensorPart& part : parts) {
        if (part.dtype != DType::f32) continue;
        std::vector<float>& whole = outcome.weights[part.name];
        whole.resize(static_cast<std::size_t>(part.whole.count()));
        Box box;
        for (std::size_t dim = 0; dim < part.start.size(); ++dim)
            box.ranges.push_back({part.start[dim], part.start[dim] + part.data.shape[static_cast<int>(dim)]});
        for_each_run(part.whole, box, [&](std::int64_t in_whole, std::int64_t in_part, std::int64_t count) {
            std::copy_n(part.data.as<float>() + in_part, count, whole.begin() + in_whole);
        });
    }
}

Outcome run(std::string_view layers, int ranks, const std::vector<std::string>& overrides = {}) {
    const Config config = config_of(layers, overrides);
    Outcome outcome;
    std::mutex mutex;
    run_as_threads(ranks, [&](Communicator& communicator) { train(config, communicator, mutex, outcome); });
    return outcome;
}

std::string refusal_of(std::string_view layers, const std::vector<std::string>& overrides = {}) {
    try {
        const Config config = config_of(layers, overrides);
        const Stream stream = CpuStream(1);
        plan_training(config, {}, nullptr, stream);
    } catch (const ConfigError& error) {
        return error.what();
    }
    return "accepted";
}

} // namespace

TEST(LayeredModels, HaveTheSameBitsOnAnyRanks) {
    for (const std::string_view layers : {mlp, cnn}) {
        const Outcome one = run(layers, 1);
        ASSERT_LT(one.numbers[one.numbers.size() - 2], 0.9f * one.numbers[one.numbers.size() > 12 ? 1 : 0])
            << "it does not learn";
        const std::vector<std::pair<int, std::vector<std::string>>> layouts = {
            {2, {}},
            {3, {"parallelism.zero_stage=1"}},
            {4, {"parallelism.zero_stage=2"}},
            {2, {"parallelism.zero_stage=3", "training.recompute=full"}},
            {1, {"training.recompute=selective"}},
        };
        for (const auto& [ranks, words] : layouts)
            EXPECT_TRUE(run(layers, ranks, words) == one) << fmt::format("{} ranks, {}", ranks, fmt::join(words, " "));
        EXPECT_FALSE(run(layers, 2, {"training.seed=2"}) == one);
    }
}

TEST(LayeredModels, ShareOutPairsOfProducts) {
    for (const std::string_view layers : {mlp, cnn}) {
        const Outcome one = run(layers, 1), two = run(layers, 2, {"parallelism.tensor_parallel_degree=2"});
        EXPECT_FALSE(two == one) << "nothing is shared out";
        for (std::size_t i = 0; i < one.numbers.size(); ++i)
            EXPECT_NEAR(two.numbers[i], one.numbers[i], 2e-5 * std::abs(one.numbers[i])) << i;
    }
    const Config config = config_of(cnn, {"parallelism.tensor_parallel_degree=2"});
    const Experiment planned = plan_training(config, {0, 2, true}, nullptr, CpuStream(1));
    const auto rests = [&](std::string_view name) {
        return planned.train.plan.value(planned.train.model.graph.named(name)).placements.back();
    };
    EXPECT_EQ(rests("conv3.weight"), Placement::shard(0)); // by filters, and its partner by channels as they lie
    EXPECT_EQ(rests("conv3.bias"), Placement::shard(0));
    EXPECT_EQ(rests("fc1.weight"), Placement::shard(3));
    EXPECT_EQ(rests("fc1.bias"), Placement::replicate());
    EXPECT_EQ(rests("conv2.weight"), Placement::replicate()); // in groups
    EXPECT_EQ(rests("fc2.weight"), Placement::replicate());
    const Config five = config_of(cnn, {"parallelism.tensor_parallel_degree=5"}); // which divides no pair
    EXPECT_THAT(
        [&] {
            plan_training(five, {0, 5, true}, nullptr, CpuStream(1));
        },
        testing::ThrowsMessage<ConfigError>(HasSubstr("no two neighbouring layers of this model can be shared "
                                                      "out evenly over so many ranks")));
}

TEST(LayeredModels, ShareOutImages) {
    const Outcome one = run(cnn, 1);
    const std::string height = "parallelism.spatial_parallel_degree=",
                      width = "parallelism.spatial_parallel_width_degree=";
    for (const auto& [ranks, degree] : {std::pair{3, height + "3"}, {2, width + "2"}}) {
        const Outcome many = run(cnn, ranks, {degree});
        EXPECT_FALSE(many == one) << "nothing is shared out";
        ASSERT_EQ(many.numbers.size(), one.numbers.size());
        for (std::size_t i = 0; i < one.numbers.size(); ++i)
            EXPECT_NEAR(many.numbers[i], one.numbers[i], 2e-5 * std::abs(one.numbers[i])) << degree << ", " << i;
    }
}

TEST(LayeredModels, RefuseWhatDoesNotFit) {
    const auto layer = [](std::string_view keys) { return fmt::format("[[model.layers]]\n{}\n", keys); };
    const std::string conv = layer("name = 'c'\ntype = 'convolution'\nfilters = 4\nkernel = 3"),
                      fc = layer("name = 'f'\ntype = 'linear'\noutputs = 5"), loss = layer("type = 'cross_entropy'"),
                      flat = layer("type = 'flatten'");
    EXPECT_EQ(refusal_of(conv + flat + fc + loss), "accepted");
    const std::vector<std::pair<std::string, std::string>> cases = {
        {"", "model.type = \"layers\": wants its layers, each in a table [[model.layers]]"},
        {conv + flat + fc, "nothing uses the layer 'f'"},
        {layer("name = 'c'\ntype = 'convolutoin'"), "layers.toml:21:1: type = \"convolutoin\": no layer type named "
                                                    "'convolutoin'; did you mean 'convolution'?"},
        {layer("type = 'linear'\noutputs = 5\nkernel = 3"),
         "layers.toml:22:1: kernel = [3]: a layer of type 'linear' has no such key, but outputs, bias, init_std"},
        {layer("type = 'linear'\noutput = 5"),
         "layers.toml:21:1: no key of [[model.layers]] named 'output'; did you mean 'outputs'?"},
        {layer("type = 'linear'\noutputs = 'x'"), "layers.toml:21:1: outputs = 'x': expected an integer"},
        {layer("type = 'linear'"), "outputs = 0: must be from 1 to"},
        {layer("name = 'c'"), "layers.toml:19:1: a layer without a type"},
        {conv + layer("type = 'relu'\ninputs = ['d']"), "inputs = [\"d\"]: no layer or field of the data named 'd'"},
        {layer("name = 'a'\ntype = 'relu'\ninputs = ['b']") + layer("name = 'b'\ntype = 'relu'\ninputs = ['a']"),
         "layers.toml:22:1: inputs = [\"b\"]: 'b' is this layer or one further down: inputs are layers above"},
        {conv + conv, "layers.toml:25:1: name = \"c\": another layer or field of the data is named 'c'"},
        {flat + layer("name = 'w'\ntype = 'convolution'\nfilters = 4\nkernel = 3") + loss,
         "layers.toml:21:1: layer 'w' of type 'convolution' does not fit 'flatten_1' (168): expected an image, "
         "(height, "
         "width, channels)"},
        {layer("name = 'c'\ntype = 'convolution'\nfilters = 4\nkernel = 9") + flat + fc + loss,
         "layer 'c' of type 'convolution' does not fit 'image' (8, 7, 3): convolution 'c': x is (2, 8, 7, 3) and "
         "padded"},
        {conv + layer("name = 's'\ntype = 'add'\ninputs = ['c', 'image']") + loss,
         "layer 's' of type 'add' does not fit 'c' (6, 5, 4) and 'image' (8, 7, 3): add 's': b is"},
        {conv + layer("type = 'add'"), "1 inputs, a layer of type 'add' takes 2 or more"},
        {flat + layer("name = 'f'\ntype = 'linear'\noutputs = 4") + loss,
         "layer 'cross_entropy_3' of type 'cross_entropy' does not fit 'f' (4) and 'label' (): 4 logits, but the data "
         "have "
         "5 classes"},
        {flat + fc + layer("type = 'mean_squared_error'"),
         "what is wanted is a class, no numbers: cross_entropy takes it"},
        {flat + fc + loss + layer("type = 'relu'\ninputs = ['cross_entropy_3']"),
         "is a loss, from which nothing follows"},
        {layer("type = 'max_pool'\nkernel = [1, 2, 3]"), "kernel = [1, 2, 3]: expected one number, or [height, width]"},
        {layer("type = 'max_pool'\nkernel = 0"), "kernel = [0]: must be from 1 to"},
        {layer("type = 'max_pool'"), "layers.toml:19:1: kernel is missing"},
        {layer("type = 'max_pool'\nglobal = true\nkernel = 2"), "kernel = [2]: the window is the whole image"},
        {layer("type = 'dropout'\nprobability = 1"), "probability = 1.0: must be at least 0 and below 1"},
    };
    for (const auto& [layers, sentence] : cases)
        EXPECT_THAT(refusal_of(layers), HasSubstr(sentence)) << layers;
    const std::string good = conv + flat + fc + loss;
    EXPECT_THAT(refusal_of(good, {"model.type=gpt"}), HasSubstr("model.type = \"gpt\": reads tokens"));
    EXPECT_THAT(refusal_of(good, {"model.layers.f.outputs=7"}), HasSubstr("accepted"));
    EXPECT_THAT(refusal_of(good, {"model.layers.g.outputs=7"}), HasSubstr("no table of [[model.layers]] is named 'g'"));
    EXPECT_THAT(refusal_of(good, {"data.image_shape=[8,7]"}), HasSubstr("expected [height, width, channels]"));
    EXPECT_THAT(refusal_of(good, {"data.classes=0"}), HasSubstr("the form of its samples is not known"));
    EXPECT_THAT(refusal_of(good, {"parallelism.sequence_parallel=true"}), HasSubstr("samples here have none"));
}
