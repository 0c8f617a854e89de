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
};

// The run has 20 steps; of these the first `until`.
Record train(const std::vector<std::string>& overrides, Stream stream, int until = steps) {
    const std::unique_ptr<Communicator> alone = make_local_communicator();
    std::vector<std::string> words = overrides;
    words.push_back(fmt::format("training.steps={}", steps));
    TinyTraining training(words, *alone, std::move(stream));
    Record record;
    for (int step = 0; step < until; ++step) {
        training.step(step);
        record.losses.push_back(std::bit_cast<float>(training.loss()) * training.scale());
        record.norms.push_back(std::bit_cast<float>(training.norm()));
    }
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
INSTANTIATE_TEST_SUITE_P(Optimizers, CudaTraining,
                         testing::Values(Variant{"adafactor", {"optimizer.name=adafactor"}},
                                         Variant{"lamb", {"optimizer.name=lamb", "loss.label_smoothing=0.1"}},
                                         Variant{"lars", {"optimizer.name=lars"}},
                                         Variant{"muon", {"optimizer.name=muon"}}),
                         [](const auto& variant) { return variant.param.name; });

} // namespace

TEST_P(CudaTraining, LossesAreTheCpusAndTwoRunsHaveTheSameBits) {
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
    constexpr int few = 5; // steps of a second run: the weights of four show in them
    const Record again = train(GetParam().overrides, gpu_stream(0), few);
    for (std::size_t step = 0; step < few; ++step) {
        EXPECT_EQ(std::bit_cast<std::uint32_t>(again.losses[step]), std::bit_cast<std::uint32_t>(cuda.losses[step]));
        EXPECT_EQ(std::bit_cast<std::uint32_t>(again.norms[step]), std::bit_cast<std::uint32_t>(cuda.norms[step]));
    }
}
