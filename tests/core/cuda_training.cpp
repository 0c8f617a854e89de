// SPDX-License-Identifier: Apache-2.0
// The tiny GPT trained on the GPU (a real one or the emulation, as the program is linked) against the CPU's losses.
#include "tests/core/tiny_training.hpp"
#include "tests/support/tolerance.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

using namespace tessera;

namespace {

constexpr int steps = 20;

struct Record {
    std::vector<float> losses;
    std::vector<float> norms;
    std::vector<std::uint32_t> weights;
};

Record train(const std::vector<std::string>& overrides, Stream stream) {
    const std::unique_ptr<Communicator> alone = make_local_communicator();
    std::vector<std::string> words = overrides;
    words.push_back(fmt::format("training.steps={}", steps));
    TinyTraining training(words, *alone, std::move(stream));
    Record record;
    for (int step = 0; step < steps; ++step) {
        training.step(step);
        record.losses.push_back(std::bit_cast<float>(training.loss()) * training.scale());
        record.norms.push_back(std::bit_cast<float>(training.norm()));
    }
    record.weights = training.weights();
    return record;
}

class CudaTraining : public testing::TestWithParam<Variant> {
protected:
    void SetUp() override {
        if (!built_with_cuda) GTEST_SKIP() << "built without CUDA";
    }
};

INSTANTIATE_TEST_SUITE_P(Variants, CudaTraining, testing::ValuesIn(variants()),
                         [](const auto& variant) { return variant.param.name; });

} // namespace

TEST_P(CudaTraining, LossesAreTheCpus) {
    const Record cpu = train(GetParam().overrides, CpuStream(1)), cuda = train(GetParam().overrides, gpu_stream(0));
    const auto says = [](std::string_view word) {
        return std::find(GetParam().overrides.begin(), GetParam().overrides.end(), word) != GetParam().overrides.end();
    };
    const DType dtype = says("training.dtype=bf16")  ? DType::bf16
                        : says("training.dtype=f16") ? DType::f16
                                                     : DType::f32;
    const Tolerance allowed = tolerance(dtype, Kind::training);
    for (std::size_t step = 0; step < cpu.losses.size(); ++step) {
        EXPECT_NEAR(cuda.losses[step], cpu.losses[step], allowed.relative * cpu.losses[step]) << "step " << step;
        EXPECT_NEAR(cuda.norms[step], cpu.norms[step], 10 * allowed.relative * cpu.norms[step]) << "step " << step;
    }
}

TEST_P(CudaTraining, TwoRunsHaveTheSameBits) {
    const Record one = train(GetParam().overrides, gpu_stream(0)), other = train(GetParam().overrides, gpu_stream(0));
    EXPECT_EQ(one.losses, other.losses);
    EXPECT_EQ(one.norms, other.norms);
    EXPECT_TRUE(one.weights == other.weights);
}
