// SPDX-License-Identifier: Apache-2.0
// Models of [[model.layers]]: which products are shared out, and that what does not fit is refused. That they train
// alike on any ranks: parallel_modes.cpp.
#include "kernels/error.hpp"
#include "tests/core/tiny_images.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace tessera;
using testing::HasSubstr;

namespace {

std::string refusal_of(std::string_view layers, const std::vector<std::string>& overrides = {}) {
    try {
        const Config config = image_config(layers, overrides);
        const Stream stream = CpuStream(1);
        plan_training(config, {}, nullptr, stream);
    } catch (const ConfigError& error) {
        return error.what();
    }
    return "accepted";
}

} // namespace

TEST(LayeredModels, ShareOutPairsOfProducts) {
    const Config config = image_config(tiny_cnn, {"parallelism.tensor_parallel_degree=2"});
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
    const Config five = image_config(tiny_cnn, {"parallelism.tensor_parallel_degree=5"}); // which divides no pair
    EXPECT_THAT(
        [&] {
            plan_training(five, {0, 5, true}, nullptr, CpuStream(1));
        },
        testing::ThrowsMessage<ConfigError>(HasSubstr("no two neighbouring layers of this model can be shared "
                                                      "out evenly over so many ranks")));
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
        {conv + layer("name = 's'\ntype = 'concat'\ninputs = ['c', 'image']") + loss,
         "layer 's' of type 'concat' does not fit 'c' (6, 5, 4) and 'image' (8, 7, 3): concatenate 's': part 2 is"},
        {conv + layer("type = 'concat'"), "1 inputs, a layer of type 'concat' takes 2 or more"},
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
