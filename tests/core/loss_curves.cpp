// SPDX-License-Identifier: Apache-2.0
// Two hundred steps of the same small GPT in every precision: each curve of losses lies near f32's, and one with a
// fault in its scales does not.
#include "tests/core/tiny_training.hpp"
#include "tests/support/tolerance.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <numeric>

using namespace tessera;

namespace {

constexpr int steps = 200, window = 20; // steps whose losses are averaged: what one batch does to a loss is no trend

// SGD: Adam's steps do not depend on the gradients' scale, and would hide a wrong one.
const std::vector<std::string> common{"model.dim=32",
                                      "training.seq_len=16",
                                      "training.global_batch_size=8",
                                      "training.local_batch_size=8",
                                      "optimizer.name=sgd",
                                      "optimizer.weight_decay=0",
                                      "optimizer.lr=0.2",
                                      "training.max_norm=0",
                                      "training.steps=200",
                                      "lr_scheduler.type=constant",
                                      "data.vocab_size=32"};

// What goes wrong in each step: scales that others read are multiplied by these.
struct Fault {
    float of_update = 1;  // the loss scale that gradients are divided by
    float of_weights = 1; // of weights in 8 bits
};

void multiply(TinyTraining& training, ValueId scalar, float factor) {
    *training.executor.view(scalar).as<float>() *= factor;
}

void multiply_scales_of_weights(TinyTraining& training, float factor) {
    const std::deque<Value>& values = training.program.model.graph.values();
    for (std::size_t i = 0; i < values.size(); ++i)
        if (values[i].name.ends_with("weight.in_f8:2")) multiply(training, static_cast<ValueId>(i), factor);
}

std::vector<double> curve(const std::vector<std::string>& words, Stream stream = CpuStream(1), Fault fault = {}) {
    std::vector<std::string> all = common;
    all.insert(all.end(), words.begin(), words.end());
    const std::unique_ptr<Communicator> alone = make_local_communicator();
    TinyTraining training(all, *alone, std::move(stream));
    std::vector<double> losses;
    for (int step = 0; step < steps; ++step) {
        const StepState state = training.state_of(step);
        training.executor.prepare(state);
        if (fault.of_weights != 1) multiply_scales_of_weights(training, fault.of_weights);
        training.executor.run_micro_batches(state, training.experiment.batch.micro_batch,
                                            [&] { training.loader.next(training.stream, training.executor.batch()); });
        const auto& loss_scale = training.program.model.loss_scale;
        if (loss_scale) multiply(training, loss_scale->scale, fault.of_update);
        training.executor.update(state);
        if (loss_scale) multiply(training, loss_scale->scale, 1 / fault.of_update);
        losses.push_back(std::bit_cast<float>(training.loss()) * training.scale());
    }
    return losses;
}

// The largest difference between means over a window, over f32's.
double distance(const std::vector<double>& losses, const std::vector<double>& expected) {
    double largest = 0;
    for (std::size_t end = window; end <= losses.size(); ++end) {
        const auto mean = [&](const std::vector<double>& all) {
            const auto last = all.begin() + static_cast<std::ptrdiff_t>(end);
            return std::accumulate(last - window, last, 0.0) / window;
        };
        const double far = std::abs(mean(losses) - mean(expected)) / mean(expected);
        if (!(far <= largest)) largest = far; // a NaN is kept
    }
    return largest;
}

const std::vector<double>& in_f32() {
    static const std::vector<double> losses = curve({});
    return losses;
}

void expect_near_f32(const std::string& name, const std::vector<double>& losses, Tolerance allowed) {
    const double far = distance(losses, in_f32());
    EXPECT_LE(far, allowed.relative) << name;
    EXPECT_GT(far, 0) << name << " is f32";
    testing::Test::RecordProperty(name, fmt::format("{:.2e}", far));
    fmt::print("{:<16} largest distance to f32's means over {} steps: {:.1e}, last mean {:.4f}\n", name, window, far,
               std::accumulate(losses.end() - window, losses.end(), 0.0) / window);
}

const std::vector<std::string> f8{"training.dtype=bf16", "training.linear_dtype=f8"};

} // namespace

TEST(LossCurves, F32Learns) {
    const std::vector<double>& losses = in_f32();
    const double last = std::accumulate(losses.end() - window, losses.end(), 0.0) / window;
    EXPECT_LT(last, 2.2) << "of " << losses[0]; // ln 32 = 3.47 at the start, 1.21 at best
    fmt::print("f32              from {:.4f} to {:.4f}\n", losses[0], last);
}

TEST(LossCurves, Bf16IsNear) {
    expect_near_f32("bf16", curve({"training.dtype=bf16"}), tolerance(DType::bf16, Kind::curve));
}

TEST(LossCurves, StochasticallyRoundedBf16IsNear) {
    expect_near_f32("bf16, stochastic", curve({"training.dtype=bf16", "training.weight_rounding=stochastic"}),
                    tolerance(DType::bf16, Kind::curve));
}

TEST(LossCurves, F16IsNear) {
    expect_near_f32("f16", curve({"training.dtype=f16"}), tolerance(DType::f16, Kind::curve));
}

TEST(LossCurves, F8IsNear) { expect_near_f32("f8", curve(f8), tolerance(DType::f8e4m3, Kind::curve)); }

TEST(LossCurves, Tf32IsNear) {
    if (!built_with_cuda) GTEST_SKIP() << "built without CUDA";
    expect_near_f32("tf32", curve({}, gpu_stream(0, {.tf32 = true})), tolerance(DType::f32, Kind::curve));
}

TEST(LossCurves, AWrongScaleIsFar) {
    const double unscaled = distance(curve({"training.dtype=f16"}, CpuStream(1), {.of_update = 2}), in_f32());
    EXPECT_GT(unscaled, 2 * tolerance(DType::f16, Kind::curve).relative);
    const double quantized = distance(curve(f8, CpuStream(1), {.of_weights = 1.25f}), in_f32());
    EXPECT_GT(quantized, 2 * tolerance(DType::f8e4m3, Kind::curve).relative);
    fmt::print("faults: gradients divided by twice the scale {:.1e}, weights of f8 a quarter too large {:.1e}\n",
               unscaled, quantized);
}
