// SPDX-License-Identifier: Apache-2.0
// The moving average of the weights: its numbers, on every layout, and what an evaluation of it leaves behind.
#include "core/optimizers/weight_average.hpp"
#include "tests/core/parallel_modes.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace tessera;

namespace {

const Words base = {"training.steps=12",
                    "training.global_batch_size=8",
                    "data.vocab_size=21",
                    "model.n_heads=4",
                    "lr_scheduler.warmup_steps=5",
                    "metrics.evaluate_batches=5",
                    "training.ema_decay=0.5",
                    "model.dropout=0.1",
                    "model.bias=true"};

Words with(Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

struct Training {
    explicit Training(const Config& config) : training(config, 0, Groups(Mesh({{"data", 1}}), *alone)) {}

    std::vector<float> floats(std::string_view name) {
        std::vector<float> found;
        for (const std::uint32_t bits : training.bits(training.program.model.graph.named(name)))
            found.push_back(std::bit_cast<float>(bits));
        return found;
    }
    double evaluate() {
        Stream host = CpuStream(1);
        const Ground ground{training.config, *training.dataset, training.groups, training.stream, host};
        return Evaluation(ground, training.experiment, training.memory).run(0).loss;
    }
    std::vector<std::string> weights() const {
        std::vector<std::string> names;
        const Graph& graph = training.program.model.graph;
        for (const ValueId id : graph.trained())
            names.push_back(graph.value(id).name);
        return names;
    }

    const std::unique_ptr<Communicator> alone = make_local_communicator();
    TinyTraining training;
};

} // namespace

TEST(WeightAverage, FollowsItsFormula) {
    Training run(tiny_config(with(base, {"training.steps=20"})));
    std::map<std::string, std::vector<double>> expected;
    for (int n = 1; n <= 20; ++n) {
        run.training.step(n - 1);
        const double keeps = n == 1 ? 0 : std::min(0.5, (1.0 + n) / (10.0 + n));
        for (const std::string& name : run.weights()) {
            const std::vector<float> weight = run.floats(name), average = run.floats(weight_average_of(name));
            std::vector<double>& mean = expected[name];
            mean.resize(weight.size());
            for (std::size_t i = 0; i < weight.size(); ++i) {
                mean[i] = keeps * mean[i] + (1 - keeps) * weight[i];
                ASSERT_NEAR(average[i], mean[i], 1e-6 * std::max(1.0, std::abs(mean[i]))) << name << " after " << n;
            }
            if (n == 1 || n == 20) {
                EXPECT_EQ(weight == average, n == 1) << name;
            }
        }
    }
}

TEST(WeightAverage, HasTheSameBitsOnEveryLayout) {
    const WholeRecord one = train_on_mesh(tiny_config(base), 1);
    ASSERT_TRUE(one.tensors.contains("optimizer.ema/norm.scale"));
    for (const std::vector<std::string_view>& names : std::vector<std::vector<std::string_view>>{
             {"data"}, {"zero_1"}, {"zero_2"}, {"zero_3"}, {"hybrid"}, {"1f1b"}, {"zero_1", "zero_bubble"}}) {
        const LayoutOfModes layout = layout_of(names);
        EXPECT_TRUE(train_on_mesh(tiny_config(layout.words(base)), layout.ranks()) == one) << layout.name();
    }
    for (const std::vector<std::string_view>& names :
         std::vector<std::vector<std::string_view>>{{"tensor"}, {"zero_3", "sequence"}, {"zero_1", "ring"}}) {
        const LayoutOfModes layout = layout_of(names);
        const WholeRecord cut = train_on_mesh(tiny_config(layout.words(base)), layout.ranks());
        EXPECT_THAT(cut.unlike, testing::IsEmpty()) << layout.name();
        const Distances found = distances(one, cut);
        EXPECT_LE(found.loss, 1e-6) << layout.name();
        EXPECT_LE(found.tensor, 4e-5) << layout.name();
    }
}

// A batch norm's running statistics come along as they are.
TEST(WeightAverage, OfImageNetworksHasTheSameBits) {
    const Words images = {"training.steps=6",
                          "training.global_batch_size=16",
                          "training.local_batch_size=4",
                          "metrics.evaluate_batches=5",
                          "optimizer.name=sgd",
                          "training.ema_decay=0.5"};
    const WholeRecord one = train_on_mesh(image_config(tiny_resnet, images), 1);
    EXPECT_TRUE(one.tensors.contains("stem_norm.running_mean"));
    EXPECT_FALSE(one.tensors.contains("optimizer.ema/stem_norm.running_mean"));
    const LayoutOfModes layout = layout_of({"zero_2"});
    EXPECT_TRUE(train_on_mesh(image_config(tiny_resnet, layout.words(images)), layout.ranks()) == one);
}

TEST(WeightAverage, IsEvaluatedInTheWeightsPlace) {
    Training averaged(tiny_config(base)), last(tiny_config(with(base, {"metrics.evaluate_ema=false"}))),
        plain(tiny_config(with(base, {"training.ema_decay=0"})));
    for (std::int64_t step = 0; step < 5; ++step)
        for (Training* run : {&averaged, &last, &plain})
            run->training.step(step);
    const std::vector<std::uint32_t> before = averaged.training.weights();
    const double loss = averaged.evaluate();
    EXPECT_TRUE(averaged.training.weights() == before);
    EXPECT_EQ(last.evaluate(), plain.evaluate());
    EXPECT_NE(loss, last.evaluate());
    for (const std::string& name : averaged.weights()) {
        const std::vector<float> average = averaged.floats(weight_average_of(name));
        const ValueId id = plain.training.program.model.graph.named(name);
        std::ranges::copy(average, plain.training.executor.view(id).as<float>());
    }
    EXPECT_EQ(plain.evaluate(), loss);
}

TEST(WeightAverage, StartsAsTheWeights) {
    Training run(tiny_config(base));
    start_averages(run.training.program, run.training.executor);
    for (const std::string& name : run.weights())
        EXPECT_EQ(run.floats(weight_average_of(name)), run.floats(name)) << name;
}
