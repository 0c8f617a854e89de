// SPDX-License-Identifier: Apache-2.0
// What a run measures, step by step: a line on the console and a line of JSON in RUN/metrics.jsonl. One rank keeps it.
#pragma once

#include "core/log.hpp"
#include "core/run/step_times.hpp"
#include "core/run/text_file.hpp"

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tessera {

struct SourceCount; // source_counts.hpp

inline constexpr Key<std::int64_t> metrics_log_every{"metrics.log_every", 10, "steps between two lines in the log"};

// Numbers by name, "accuracy" say, in their order.
using ToldNumbers = std::vector<std::pair<std::string, double>>;

// Below zero means unknown for grad_norm, what mixtures of experts tell, loss_scale, skipped_steps, tflops, mfu,
// weights_wait and bubble: the field is left out.
struct StepRecord {
    std::int64_t step = 0;  // 1 is the first
    std::int64_t steps = 0; // of the whole run
    double loss = 0;
    ToldNumbers told{};
    double grad_norm = -1;
    double balance_loss = -1;     // of mixtures of experts, the mean over them: 1 where the load is even
    double z_loss = -1;           // likewise, the mean square of the log of the sum of exp(logits)
    double dropped_fraction = -1; // likewise, of the tokens' choices
    double learning_rate = 0;
    double loss_scale = -1;          // f16: of this step
    std::int64_t skipped_steps = -1; // f16, guard: since the start of the run, this step included
    std::string divergence{};        // what the guard found odd about this step, which has changed nothing
    std::string fault{};             // that computing the step twice found, and that has passed
    double units_per_second = 0;     // of all ranks
    double tflops = -1;              // of all ranks, 1e12 operations per second
    double mfu = -1;                 // 1 is the machine's peak
    double seconds = 0;              // of this step
    double weights_wait = -1;        // ZeRO on CPUs: seconds in which this rank gathered weights and did nothing else
    double bubble = -1;              // of a pipeline: share of the stages' time spent waiting for each other
    double input_wait = 0;           // seconds of it spent waiting for data
    std::string_view unit = "token"; // or "sample"
    std::int64_t units = 0;          // since the start of the run
    StepTimes times{};               // since the last step that had them; without ranks: left out
};

struct EvaluationRecord {
    std::int64_t step = 0;
    double loss = 0;
    ToldNumbers told{};
    std::string_view unit = "token";
    std::int64_t units = 0; // that the loss is the mean of
    std::string note{};     // what follows from it
    struct Table {
        std::string name;
        std::int64_t columns;
        std::vector<double> counts;
    };
    std::vector<Table> tables{}; // go to the file, not to the console
    struct Source {
        std::string name;
        double loss;
        ToldNumbers told;
        std::int64_t units;
    };
    std::vector<Source> sources{}; // where data are mixed: the same of each; what they tell goes to the file
};

// A checkpoint that is on disk.
struct CheckpointRecord {
    std::int64_t step = 0;
    double stall = 0;       // seconds for which training stood still
    double seconds = 0;     // from the begin to when all ranks knew that it is there
    std::int64_t bytes = 0; // of tensors, over all ranks
};

// Weights and states that were put back.
struct RollbackRecord {
    std::int64_t step = 0; // after which
    std::int64_t to = 0;   // those after so many steps
    std::string from;      // the checkpoint's path, or "memory"
};

// "step: 100/2000  loss: 2.3456  grad_norm: 0.512  lr: 1.00e-03  tok/s: 45,123  …  eta: 0:01:23"; eta < 0: left out.
std::string console_line(const StepRecord& record, double eta_seconds);
std::string console_line(const EvaluationRecord& record);

// The record as one line of JSON without line end. Numbers are written such that they read back to the same bits; one
// that is not finite is null.
std::string json_line(const StepRecord& record);
std::string json_line(const EvaluationRecord& record);
std::string json_line(const CheckpointRecord& record);
std::string json_line(const RollbackRecord& record);

// Every step goes to the file; every metrics.log_every-th, the first and the last to the log; the others redraw the
// progress line of a terminal. Where the file cannot be written to, that is said, and training goes on.
class Metrics {
public:
    // metrics.log_every. Throws ConfigError when it is below 1.
    static std::int64_t log_every(const Config& config);

    // `log` must outlive this. Keeps of an existing file the lines up to `resumed_step` (0: a new run, none), in one
    // atomic replacement, so that a resumed run leaves one sequence of steps. Lines that are no record, as a crash
    // leaves them, are dropped with a warning. Throws SystemError when the file cannot be written, ConfigError as
    // log_every does, before it touches the file.
    Metrics(Log& log, const Config& config, const std::filesystem::path& run_folder, std::int64_t resumed_step);

    void step(const StepRecord& record);
    void evaluation(const EvaluationRecord& record);
    void checkpoint(const CheckpointRecord& record); // to the file only
    void rollback(const RollbackRecord& record);     // likewise
    // Records of the data that were left out, of each kind; to the file only.
    void skipped(std::int64_t step, std::string_view kind, std::int64_t count, std::string_view first);
    // What came from each source until here, to the file only.
    void sources(std::int64_t step, const std::vector<SourceCount>& counts);

private:
    void write(const std::string& line);
    double eta(const StepRecord& record);

    Log& log_;
    std::int64_t log_every_;
    TextFile file_;
    std::int64_t missing_ = 0; // lines, since the file could be written to
    double step_seconds_ = -1; // moving average
    std::int64_t logged_ = 0;  // steps handed in so far
    std::chrono::steady_clock::time_point redrawn_{};
};

} // namespace tessera
