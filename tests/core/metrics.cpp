// SPDX-License-Identifier: Apache-2.0
// Metrics: the console line, the JSON line that reads back to the same record, and the file after a resume.
#include "core/run/metrics.hpp"

#include "core/config_catalog.hpp"
#include "kernels/error.hpp"

#include <bit>
#include <fmt/format.h>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <rapidcheck.h>
#include <unistd.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;
using testing::Not;

StepRecord record(std::int64_t step) {
    StepRecord result;
    result.step = step;
    result.steps = 2000;
    result.loss = 2.34561;
    result.grad_norm = 0.512;
    result.learning_rate = 1e-3;
    result.units_per_second = 45123.4;
    result.tflops = 0.42;
    result.mfu = 0.812;
    result.seconds = 0.5;
    result.units = 1024 * step;
    return result;
}

TEST(Metrics, ConsoleLineHasThePairsInOrder) {
    EXPECT_EQ(console_line(record(100), 83.2),
              "step: 100/2000  loss: 2.3456  grad_norm: 0.512  lr: 1.00e-03  tok/s: 45,123  tflops: 0.42  mfu: 81.2%  "
              "eta: 0:01:23");
    StepRecord unknown = record(1);
    unknown.grad_norm = unknown.tflops = unknown.mfu = -1;
    unknown.units_per_second = 1234567890;
    EXPECT_EQ(console_line(unknown, -1), "step: 1/2000  loss: 2.3456  lr: 1.00e-03  tok/s: 1,234,567,890");
    EXPECT_EQ(console_line(EvaluationRecord{.step = 500, .loss = 1.5, .units = 65536}),
              "evaluation: step: 500  loss: 1.5000  perplexity: 4.48  tokens: 65,536");
    EXPECT_NE(console_line(record(1), 100 * 3600 + 59).find("eta: 100:00:59"), std::string::npos);
}

TEST(Metrics, JsonReadsBackToTheSameBits) {
    const bool right = rc::check([](std::int64_t step, double loss, float norm, double rate) {
        StepRecord written = record(7);
        written.step = step;
        written.loss = loss;
        written.grad_norm = std::abs(norm);
        written.learning_rate = rate;
        written.weights_wait = 0.125;
        const nlohmann::json read = nlohmann::json::parse(json_line(written));
        RC_ASSERT(read["kind"] == "step");
        RC_ASSERT(read["step"].get<std::int64_t>() == step);
        RC_ASSERT(std::bit_cast<std::uint64_t>(read["loss"].get<double>()) == std::bit_cast<std::uint64_t>(loss));
        RC_ASSERT(read["grad_norm"].get<float>() == std::abs(norm));
        RC_ASSERT(read["learning_rate"].get<double>() == rate);
        RC_ASSERT(read["tokens_per_second"].get<double>() == written.units_per_second);
        RC_ASSERT(read["tflops"].get<double>() == written.tflops);
        RC_ASSERT(read["mfu"].get<double>() == written.mfu);
        RC_ASSERT(read["seconds"].get<double>() == written.seconds);
        RC_ASSERT(read["input_wait"].get<double>() == written.input_wait);
        RC_ASSERT(read["weights_wait"].get<double>() == written.weights_wait);
        RC_ASSERT(read["tokens"].get<std::int64_t>() == written.units);
    });
    EXPECT_TRUE(right);
}

TEST(Metrics, OfF16TellTheLossScaleAndSkippedSteps) {
    StepRecord skipped = record(3);
    EXPECT_THAT(json_line(skipped), Not(AnyOf(HasSubstr("loss_scale"), HasSubstr("skipped"))));
    skipped.loss_scale = 32768;
    skipped.skipped_steps = 0;
    EXPECT_THAT(console_line(skipped, 0), AllOf(HasSubstr("  loss_scale: 32768  tok/s"), Not(HasSubstr("skipped"))));
    skipped.skipped_steps = 2;
    skipped.grad_norm = std::numeric_limits<double>::quiet_NaN();
    EXPECT_THAT(console_line(skipped, 0),
                HasSubstr("  grad_norm: not finite  lr: 1.00e-03  loss_scale: 32768  skipped: 2"));
    EXPECT_THAT(json_line(skipped),
                AllOf(HasSubstr("\"grad_norm\":null"), HasSubstr("\"loss_scale\":32768.0,\"skipped_steps\":2,")));
}

TEST(Metrics, JsonTellsWhereTheTimeOfTheRanksWent) {
    StepRecord logged = record(20);
    EXPECT_FALSE(nlohmann::json::parse(json_line(logged)).contains("times"));
    logged.times = {10, {"data"}, {{1, 0, 0, 0, {3}}, {0.5, 2, 0.25, 0.25, {1}}}};
    const nlohmann::json times = nlohmann::json::parse(json_line(logged))["times"];
    EXPECT_EQ(times, nlohmann::json::parse(R"({"steps":10,"computing":0.075,"communication":0.2,"input":0.1,
        "saving":0.0125,"evaluation":0.0125,"communication_by_axis":{"data":0.2},
        "slowest":{"rank":1,"computing":0.05,"communication":0.1,"input":0.2,"saving":0.025,"evaluation":0.025},
        "ranks":{"computing":[0.1,0.05],"communication":[0.3,0.1],"input":[0.0,0.2],"saving":[0.0,0.025],
                 "evaluation":[0.0,0.025]}})"));
    logged.times.ranks.resize(65, logged.times.ranks[0]);
    EXPECT_FALSE(nlohmann::json::parse(json_line(logged))["times"].contains("ranks")); // too many to list
}

TEST(Metrics, JsonLeavesOutWhatIsUnknownAndSaysNullForWhatIsNotFinite) {
    StepRecord unknown = record(1);
    unknown.grad_norm = unknown.tflops = unknown.mfu = -1;
    unknown.loss = std::numeric_limits<double>::quiet_NaN();
    const nlohmann::json read = nlohmann::json::parse(json_line(unknown));
    EXPECT_TRUE(read["loss"].is_null());
    for (const char* name : {"grad_norm", "tflops", "mfu", "weights_wait"})
        EXPECT_FALSE(read.contains(name)) << name;
    const nlohmann::json evaluation =
        nlohmann::json::parse(json_line(EvaluationRecord{.step = 7, .loss = 0, .units = 99}));
    EXPECT_EQ(evaluation,
              nlohmann::json::parse(R"({"kind":"evaluation","step":7,"loss":0.0,"perplexity":1.0,"tokens":99})"));
    const nlohmann::json of_samples =
        nlohmann::json::parse(json_line(EvaluationRecord{.step = 7, .loss = 1.25, .unit = "sample", .units = 99}));
    EXPECT_EQ(of_samples, nlohmann::json::parse(R"({"kind":"evaluation","step":7,"loss":1.25,"samples":99})"));
    const nlohmann::json saved = nlohmann::json::parse(json_line(CheckpointRecord{7, 0.25, 1.5, 99}));
    EXPECT_EQ(saved, nlohmann::json::parse(R"({"kind":"checkpoint","step":7,"stall":0.25,"seconds":1.5,"bytes":99})"));
}

class MetricsFile : public testing::Test {
protected:
    MetricsFile()
        : folder_(fs::temp_directory_path() / fmt::format("tessera-metrics-{}", getpid())),
          config_(Config::parse("", "test.toml", {"metrics.log_every=4"}, known_keys())) {
        fs::remove_all(folder_);
        testing::internal::CaptureStdout();
        log_.emplace(config_, folder_, 0);
    }
    ~MetricsFile() override { fs::remove_all(folder_); }

    void run(std::int64_t resumed_step, std::int64_t last_step) {
        Metrics metrics(*log_, config_, folder_, resumed_step);
        for (std::int64_t step = resumed_step + 1; step <= last_step; ++step) {
            metrics.step(record(step));
            if (step % 5 == 0) metrics.evaluation({.step = step, .loss = 1.0, .units = 10});
        }
    }
    std::vector<std::string> lines() const {
        std::ifstream file(folder_ / "metrics.jsonl");
        std::vector<std::string> result;
        for (std::string line; std::getline(file, line);) {
            const nlohmann::json read = nlohmann::json::parse(line);
            result.push_back(fmt::format("{}{}", read["kind"] == "step" ? "s" : "e", read["step"].get<int>()));
        }
        return result;
    }
    static std::string joined(const std::vector<std::string>& words) {
        return fmt::format("{}", fmt::join(words, " "));
    }

    fs::path folder_;
    Config config_;
    std::optional<Log> log_;
};

TEST_F(MetricsFile, KeepsOneSequenceOfStepsOverAResume) {
    run(0, 7);
    EXPECT_EQ(joined(lines()), "s1 s2 s3 s4 s5 e5 s6 s7");
    run(5, 6);
    EXPECT_EQ(joined(lines()), "s1 s2 s3 s4 s5 e5 s6");
    run(0, 2);
    EXPECT_EQ(joined(lines()), "s1 s2");
    testing::internal::GetCapturedStdout();
}

TEST_F(MetricsFile, DropsWhatACrashLeftAndSaysSo) {
    run(0, 3);
    std::ofstream(folder_ / "metrics.jsonl", std::ios::app) << std::string(4, '\0') << "\n{\"step\":3,\"loss\":1";
    run(3, 4);
    EXPECT_EQ(joined(lines()), "s1 s2 s3 s4");
    const std::string console = testing::internal::GetCapturedStdout();
    EXPECT_NE(console.find("metrics.jsonl: lines that were no record and are dropped: 2\n"), std::string::npos)
        << console;
    EXPECT_FALSE(fs::exists(folder_ / "metrics.jsonl.new"));
}

TEST_F(MetricsFile, LogsTheFirstTheLastAndEveryNth) {
    run(1994, 2000);
    run(2, 9);
    const std::string console = testing::internal::GetCapturedStdout();
    std::string steps;
    for (std::size_t at = 0; (at = console.find("step: ", at)) != std::string::npos; ++at)
        steps += console.substr(at + 6, console.find_first_of("/ ", at + 6) - at - 6) + ' ';
    // Evaluations (every 5th step) are always logged.
    EXPECT_EQ(steps, "1995 1995 1996 2000 2000 3 4 5 8 ") << console;
    EXPECT_EQ(console.find('\033'), std::string::npos);
}

TEST_F(MetricsFile, RefusesAnIntervalBelowOneAndAFileThatCannotBe) {
    const Config wrong = Config::parse("", "test.toml", {"metrics.log_every=0"}, known_keys());
    EXPECT_THROW(Metrics(*log_, wrong, folder_, 0), ConfigError);
    EXPECT_THROW(Metrics(*log_, config_, "/proc/nowhere", 0), SystemError);
    testing::internal::GetCapturedStdout();
}

} // namespace
} // namespace tessera
