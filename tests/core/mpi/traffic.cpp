// SPDX-License-Identifier: Apache-2.0
// What the plan says the ranks send to each other in a step is what their communicators count, axis by axis.
#include "core/plan/traffic.hpp"
#include "core/run/weights.hpp"
#include "tests/core/planned_run.hpp"
#include "tests/core/tiny_gpt.hpp"
#include "tests/support/mpi_main.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

using namespace tessera;

namespace {

// A rank's part of a training, with the communicators of all axes.
struct Training {
    explicit Training(const std::vector<std::string>& words)
        : config(tiny_config(words)), dataset(tiny_dataset(config)),
          experiment(plan_training(config, {test::world().rank(), test::world().size(), true}, dataset.get(), stream)),
          groups(test::world(), layout().mesh, stream, layout().one_host),
          memory(experiment.memory, layout(), groups, stream), executor(layout(), plan(), memory, groups, stream) {
        initialize_weights(experiment.train, executor, 1);
    }

    const Layout& layout() const { return experiment.train.layout; }
    const Plan& plan() const { return experiment.train.plan; }

    void step() {
        const StepState state{1, 0, 0, 0.01};
        executor.prepare(state);
        executor.run_micro_batches(state, experiment.batch.micro_batch, [&] {
            for (const View& view : executor.batch())
                if (view.memory() != nullptr) std::fill_n(view.as<std::int32_t>(), view.count(), 3);
        });
        executor.update(state);
    }

    std::int64_t sent(int axis) { return groups.axis(axis).bytes_sent(); }

    // Of all ranks of the axis.
    std::int64_t sum(int axis, std::int64_t number) {
        auto word = static_cast<std::int32_t>(number);
        groups.axis(axis).all_reduce(stream, View(&word, {}, DType::i32), Reduction::sum);
        return word;
    }

    // Fewer bytes than this are lost where the plan takes the mean over the ranks, which a collective rounds twice.
    std::int64_t rounding(int axis) const {
        std::int64_t collectives = 0;
        for (const Transfers& transfers : transfers_of(plan(), layout()))
            if (transfers.axis == axis) collectives += transfers.calls * transfers.runs;
        for (const Exchange& exchange : plan().exchanges)
            if (exchange.axis == axis) ++collectives;
        return 2 * collectives * layout().mesh.axis(axis).size;
    }

    Stream stream = CpuStream(1);
    Config config;
    std::unique_ptr<Dataset> dataset;
    Experiment experiment;
    Groups groups;
    Memory memory;
    Executor executor;
};

// Heads and hidden units for 1 to 4 ranks; the vocabulary is shared out unevenly, and the sequence where it may be.
std::vector<std::string> words_of(int context, int tensor, const std::vector<std::string>& more) {
    std::vector<std::string> words{"model.n_heads=12",
                                   "model.dim=24",
                                   "data.vocab_size=65",
                                   fmt::format("training.seq_len={}", context == 1 ? 13 : 24),
                                   fmt::format("parallelism.context_parallel_degree={}", context),
                                   fmt::format("parallelism.tensor_parallel_degree={}", tensor)};
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

const std::vector<Variant> layouts = {
    {"plain", {}},
    {"messages", {"parallelism.shared_memory=false", "training.dtype=bf16"}},
    {"sequence", {"parallelism.sequence_parallel=true", "model.bias=true", "parallelism.bucket_cap_mb=0.01"}},
    {"sequence by messages",
     {"parallelism.sequence_parallel=true", "parallelism.shared_memory=false", "model.dropout=0.1"}},
    {"zero 1", {"parallelism.zero_stage=1", "training.dtype=bf16"}},
    {"zero 2", {"parallelism.zero_stage=2", "parallelism.shared_memory=false"}},
    {"zero 3",
     {"parallelism.zero_stage=3", "parallelism.sequence_parallel=true", "parallelism.bucket_cap_mb=0.01",
      "model.bias=true", "training.recompute=full"}},
    {"messages, zero 3", // gathered ahead
     {"parallelism.zero_stage=3", "parallelism.shared_memory=false", "training.dtype=bf16", "model.bias=true"}},
    {"ring", {"parallelism.context_parallel_method=ring", "training.dtype=bf16", "model.dropout=0.1"}},
    {"ring of sequences",
     {"parallelism.context_parallel_method=ring", "parallelism.sequence_parallel=true", "parallelism.zero_stage=1",
      "parallelism.shared_memory=false"}},
    {"ring, zero 3",
     {"parallelism.context_parallel_method=ring", "parallelism.sequence_parallel=true", "parallelism.zero_stage=3",
      "training.recompute=full"}},
};

// Stages 2 and 3 share out 8 micro-batches evenly.
bool refused(const Variant& variant, int data_ranks) {
    return data_ranks == 3 && (variant.name == "zero 2" || variant.name.ends_with("zero 3"));
}

void expect_traffic(const std::vector<std::string>& words, std::int64_t least = 20'000) {
    Training training(words);
    for (int axis = 0; axis < training.layout().mesh.axis_count(); ++axis) {
        const MeshAxis& ranks = training.layout().mesh.axis(axis);
        if (ranks.size == 1) continue;
        const std::int64_t before = training.sent(axis);
        training.step();
        const std::int64_t counted = training.sum(axis, training.sent(axis) - before);
        const std::int64_t planned = training.sum(axis, bytes_sent_over(axis, training.plan(), training.layout()));
        EXPECT_GT(planned, least) << ranks.name;
        EXPECT_GE(counted, planned) << ranks.name;
        // Even numbers of bytes are cut evenly by 2 and 4.
        EXPECT_LE(counted - planned, ranks.size == 3 ? training.rounding(axis) : 0) << ranks.name;
    }
}

} // namespace

TEST(Traffic, OneRankSendsNothing) {
    if (test::world().size() > 1) return;
    Training training(words_of(1, 1, {}));
    training.step();
    EXPECT_EQ(training.sent(0), 0);
    EXPECT_EQ(bytes_sent_over(0, training.plan(), training.layout()), 0);
}

TEST(Traffic, IsWhatThePlanSays) {
    const int ranks = test::world().size();
    for (int context = 1; context <= ranks; ++context)
        for (int tensor = 1; context * tensor <= ranks; ++tensor) {
            if (ranks % (context * tensor) != 0) continue;
            for (const Variant& variant : layouts) {
                if (context == 1 && variant.name.starts_with("ring")) continue;
                SCOPED_TRACE(
                    fmt::format("context {} x tensor {} of {} ranks, {}", context, tensor, ranks, variant.name));
                if (!refused(variant, ranks / (context * tensor)))
                    expect_traffic(words_of(context, tensor, variant.overrides));
            }
        }
}

// Replicas of what ZeRO shares out: within one and between them, in shared memory and by messages.
TEST(Traffic, OfReplicasIsWhatThePlanSays) {
    if (test::world().size() != 4) return;
    for (const int stage : {1, 2, 3})
        for (const bool shared : {true, false}) {
            SCOPED_TRACE(fmt::format("zero {}, shared memory {}", stage, shared));
            expect_traffic(words_of(1, 1,
                                    {"parallelism.data_parallel_replicate_degree=2", "parallelism.bucket_cap_mb=0.01",
                                     "data.vocab_size=3001", // more than one block of elements
                                     fmt::format("parallelism.zero_stage={}", stage),
                                     fmt::format("parallelism.shared_memory={}", shared)}));
        }
}

// A tied head: its weight and its gradient travel, too.
TEST(Traffic, OfAPipelineIsWhatThePlanSays) {
    const int ranks = test::world().size();
    for (const std::string_view schedule : {"gpipe", "1f1b", "interleaved", "zero_bubble"})
        for (const int stages : {2, 4}) {
            if (ranks % stages != 0) continue;
            SCOPED_TRACE(fmt::format("{} stages of {} ranks, {}", stages, ranks, schedule));
            expect_traffic(words_of(1, 1,
                                    {"model.n_layers=8", "parallelism.zero_stage=1",
                                     fmt::format("parallelism.pipeline_parallel_degree={}", stages),
                                     fmt::format("parallelism.pipeline_schedule={}", schedule)}),
                           10'000);
        }
}

// Tokens travel to experts and back; the other axis has the tensor or the data ranks.
TEST(Traffic, OfExpertsIsWhatThePlanSays) {
    const int ranks = test::world().size();
    for (int expert = 2; expert <= ranks; ++expert)
        for (const int tensor : {1, ranks / expert}) {
            if (ranks % expert != 0) continue;
            SCOPED_TRACE(fmt::format("expert {} x tensor {} of {} ranks", expert, tensor, ranks));
            expect_traffic(
                words_of(1, tensor,
                         {fmt::format("parallelism.expert_parallel_degree={}", expert), "model.moe_experts=12",
                          "training.local_batch_size=12", "training.global_batch_size=48", "model.bias=true"}));
        }
}
