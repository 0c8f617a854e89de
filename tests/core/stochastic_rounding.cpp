// SPDX-License-Identifier: Apache-2.0
// Weights in use that are rounded by chance: what the key and the step say, from f32 that stay as they are.
#include "kernels/error.hpp"
#include "kernels/random.hpp"
#include "kernels/stochastic_cast.hpp"
#include "tests/core/tiny_training.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace tessera;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

std::vector<std::uint16_t> bits_in_use(TinyTraining& training, const std::string& weight) {
    HostCopy copy(training.stream, training.executor.view(training.program.model.graph.named(weight + ".in_use")));
    copy.load();
    const auto* first = copy.view().as<BFloat16>();
    std::vector<std::uint16_t> bits;
    for (std::int64_t i = 0; i < copy.view().count(); ++i)
        bits.push_back(first[i].bits);
    return bits;
}

void expect_rounded_by_key_and_step(Stream stream) {
    const std::unique_ptr<Communicator> alone = make_local_communicator();
    TinyTraining training({"training.dtype=bf16", "training.weight_rounding=stochastic"}, *alone, std::move(stream));
    const std::string weight = "layers.1.mlp.up.weight";
    const ValueId master = training.program.model.graph.named(weight);
    std::vector<std::vector<std::uint16_t>> seen;
    for (const std::int64_t step : {0, 1, 2}) {
        HostCopy copy(training.stream, training.executor.view(master));
        copy.load();
        std::vector<BFloat16> expected(static_cast<std::size_t>(copy.view().count()));
        CpuStream host;
        std::array<std::int32_t, kernels::draw_words> draw;
        const View drawn(draw.data(), {kernels::draw_words}, DType::i32);
        kernels::write_draw(drawn, training.experiment.seed, static_cast<std::uint64_t>(step), 0);
        kernels::stochastic_cast(host, {random_key(0, weight + ".in_use").stream, 0}, drawn, copy.view(),
                                 View(expected.data(), copy.view().shape, DType::bf16));
        const std::vector<std::uint32_t> before = training.bits(master);
        training.executor.prepare(training.state_of(step));
        seen.push_back(bits_in_use(training, weight));
        for (std::size_t i = 0; i < expected.size(); ++i)
            ASSERT_EQ(seen.back()[i], expected[i].bits) << "step " << step << ", element " << i;
        EXPECT_TRUE(training.bits(master) == before) << "the f32 weight changed";
    }
    EXPECT_NE(seen[0], seen[1]);
    EXPECT_NE(seen[1], seen[2]);
}

} // namespace

TEST(StochasticRounding, IsByKeyAndStepOnTheCpu) { expect_rounded_by_key_and_step(CpuStream(2)); }

TEST(StochasticRounding, IsByKeyAndStepOnTheGpu) {
    if (!built_with_cuda) GTEST_SKIP() << "built without CUDA";
    expect_rounded_by_key_and_step(gpu_stream(0));
}

TEST(StochasticRounding, IsOfBf16AndOfTraining) {
    EXPECT_THAT([] { plan_tiny({"training.weight_rounding=stochastic"}, 0, 1); },
                ThrowsMessage<ConfigError>(HasSubstr("\"stochastic\" wants training.dtype = \"bf16\", not \"f32\"")));
    EXPECT_THAT([] { plan_tiny({"training.weight_rounding=random"}, 0, 1); },
                ThrowsMessage<ConfigError>(HasSubstr("no rounding named 'random'")));
    const Experiment experiment =
        plan_tiny({"training.dtype=bf16", "training.weight_rounding=stochastic", "data.validation_fraction=0.5"}, 0, 1);
    const auto rounds = [](const Program& program) {
        const std::deque<Node>& nodes = program.model.graph.nodes();
        return std::count_if(nodes.begin(), nodes.end(),
                             [](const Node& node) { return node.op->name() == "stochastic_cast"; });
    };
    EXPECT_GT(rounds(experiment.train), 0);
    EXPECT_FALSE(experiment.evaluate.model.graph.nodes().empty());
    EXPECT_EQ(rounds(experiment.evaluate), 0); // evaluated as it would be used
}
