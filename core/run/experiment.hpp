// SPDX-License-Identifier: Apache-2.0
// Everything that a config and a rank count decide before anything runs: data, batch, mesh, graphs, plans, memory.
#pragma once

#include "core/config.hpp"
#include "core/data/dataset.hpp"
#include "core/data/loader.hpp"
#include "core/model.hpp"
#include "core/optimizers/guard.hpp"
#include "core/plan/plan.hpp"
#include "core/run/batch_ramp.hpp"
#include "core/run/parallelism.hpp"

#include <limits>
#include <memory>

namespace tessera {

inline constexpr Key<std::int64_t> training_steps{"training.steps", 1000, "optimizer steps of the whole run"};
inline constexpr Key<std::int64_t> training_sequence{"training.seq_len", 64, "tokens of one sample of text"};
inline constexpr Key<std::string> training_dtype{
    "training.dtype", "f32",
    "type of activations and weights in use: f32, bf16, f16, or tf32: f32 whose products a GPU rounds to 10 bits"};
inline constexpr Key<std::string> training_linear_dtype{
    "training.linear_dtype", "same",
    "factors in the blocks' linear layers: same (as training.dtype), or f8: 8 bits and a scale for each tensor, in "
    "bf16"};
inline constexpr Key<std::string> training_recompute{
    "training.recompute", "none",
    "activations computed again, not kept: none, selective (cheap ones), full (layers), auto (fits run.memory_limit)"};
inline constexpr Key<std::string> training_weight_rounding{
    "training.weight_rounding", "nearest",
    "bf16: how weights in use are rounded from f32, at each step: nearest, or stochastic: by chance, without bias"};
inline constexpr Key<std::int64_t> training_seed{"training.seed", 1, "seed of weights, sample order and dropout"};
inline constexpr Key<std::string> run_device{
    "run.device", "auto", "cpu, cuda (a GPU for each rank of a host), or auto: cuda where there are as many GPUs"};
inline constexpr Key<bool> run_share_gpus{"run.share_gpus", false,
                                          "ranks of a host may share its GPUs in turn, which NCCL itself refuses"};
inline constexpr Key<bool> run_cuda_graph{"run.cuda_graph", true,
                                          "GPUs record each part of a step once and replay it in one launch"};
inline constexpr Key<std::int64_t> run_threads{"run.threads", 0,
                                               "threads of each rank; 0: OMP_NUM_THREADS, or 1 without it"};
inline constexpr Key<std::int64_t> evaluate_batches{
    "metrics.evaluate_batches", 0, "micro-batches of the validation split per evaluation; 0: all of it"};

// A graph with its plan for this rank.
struct Program {
    Model model;
    Layout layout; // of its own: an evaluation has other micro-batches than a step
    Plan plan;
};

// An evaluation of the samples of one source, where data are mixed from several (Dataset::sources).
struct SourceEvaluation {
    OrderedSource source;                              // of the validation split
    std::int64_t first = 0;                            // of its samples among all that are evaluated
    std::int64_t batches = 0, rows = 0, rest_rows = 0; // as Experiment has them of an evaluation of all
    Program whole{}, rest{};
};

struct Experiment {
    std::int64_t steps = 0;
    std::uint64_t seed = 0;
    ModelSizes sizes; // batch: rows of a micro-batch
    Augmentation augmentation{};
    int prefetch = 0, loader_threads = 1; // as LoaderOptions has them
    Batch batch;                          // of this stage
    BatchRamp ramp;                       // of the whole run
    BatchStage stage;                     // what `train` is planned for: one of the ramp's

    Program train;
    ValueId gradient_norm = no_value;
    std::optional<Guard> guard{};
    ValueId validation_state = no_value; // of validation_watch.hpp
    Program evaluate;
    std::int64_t evaluation_batches = 0; // 0: there is no validation split
    std::int64_t evaluation_rows = 0;    // of each: those of a micro-batch, or as many samples as there are
    std::int64_t evaluation_steps = 1;   // of so many batches each: more than one where states are carried on
    Program evaluate_rest;               // the same for what is left over behind whole micro-batches
    std::int64_t rest_rows = 0;          // of it; 0: nothing is
    // Where data are mixed: what is evaluated, source by source, instead of `evaluate`; nothing is left over behind it.
    std::vector<SourceEvaluation> evaluate_sources{};
    Program generate; // without data or targets; planned when asked for

    MemoryNeed memory;

    LoaderOptions train_loader(std::int64_t first_step) const;
    LoaderOptions evaluation_loader() const;
    LoaderOptions rest_loader() const;
    std::int64_t evaluation_loader_bytes() const; // of the loader that needs most: evaluations have one at a time
    // Of so many micro-batches of the validation split, from this sample of the order on.
    LoaderOptions loader_for(const Program& program, std::int64_t rows, std::int64_t batches,
                             std::int64_t first_sample) const;
    // Rows whose states are carried on, in training those of the batch; 0: none.
    std::int64_t evaluation_streams() const { return sizes.streams > 0 ? evaluation_batches * evaluation_rows : 0; }
};

// Of a ramp the last stage, which needs the most memory.
inline constexpr std::int64_t last_stage = std::numeric_limits<std::int64_t>::max();

// `dataset` may be null for a plan without data; then the config must tell the form of samples. `step`: of the stage
// that is planned. Throws ConfigError with the key's place for whatever does not fit.
Experiment plan_training(const Config& config, const RankView& view, const Dataset* dataset, const Stream& stream,
                         std::int64_t step = last_stage);

// The graphs of all evaluations of an experiment, cut for its mesh; of sources one each.
struct EvaluationCuts {
    CutGraph whole, rest;
    std::vector<CutGraph> whole_sources, rest_sources;
};

// Plans of several ranks of one run, which have all but their last passes in common.
class TrainingPlans {
public:
    // Throws as plan_training does. All arguments outlive it. `evaluates`: or as though there were no validation split.
    TrainingPlans(const Config& config, int ranks, bool one_host, const Dataset* dataset, const Stream& stream,
                  bool evaluates = true, std::int64_t step = last_stage);
    Experiment of(int rank) const; // as plan_training makes it

private:
    const Stream& stream_;
    const Config& config_;
    Experiment shared_; // but for the plans
    CutGraph train_;
    EvaluationCuts evaluations_;
};

Experiment plan_evaluation(const Config& config, const RankView& view, const Dataset& dataset, const Stream& stream);
// `answer`: of an encoder-decoder, which reads a source and writes a target of so many tokens.
struct AnswerSizes {
    std::int64_t source = 0, target = 0;
};
Experiment plan_generation(const Config& config, std::int64_t vocabulary, const Stream& stream,
                           const AnswerSizes& answer = {});

} // namespace tessera
