// SPDX-License-Identifier: Apache-2.0
// The audit of replicas: one bit that differs is found and laid to the right rank, or mended; and whatever is cut
// differently is never compared.
#include "core/run/replica_audit.hpp"

#include "kernels/error.hpp"
#include "tests/core/tiny_training.hpp"

#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace tessera;
using testing::AllOf;
using testing::HasSubstr;

namespace {

const std::string weight = "layers.0.mlp.up.weight", moment = "optimizer.second_moment/norm.scale";

void flip(TinyTraining& training, const std::string& name) {
    HostCopy copy(training.stream, training.executor.view(training.program.model.graph.named(name)));
    copy.load();
    if (copy.view().count() == 0) return; // of a moment under ZeRO
    static_cast<std::uint32_t*>(copy.view().memory())[3] ^= 1u << 7;
    copy.store();
}

struct Outcome {
    std::string thrown;                              // of rank 0, and the same on all
    std::vector<std::vector<std::uint32_t>> weights; // by rank
};

// Trains a step on so many ranks, flips a bit of the tensors on the rank where that is asked for, and audits.
Outcome audited(int ranks, const std::vector<std::string>& words,
                const std::vector<std::pair<int, std::string>>& flips) {
    const std::filesystem::path folder = testing::TempDir() + "/replica-audit";
    Outcome outcome;
    std::vector<std::string> thrown(static_cast<std::size_t>(ranks));
    outcome.weights.resize(static_cast<std::size_t>(ranks));
    run_as_threads(ranks, [&](Communicator& communicator) {
        const auto rank = static_cast<std::size_t>(communicator.rank());
        TinyTraining training(words, communicator);
        training.step(0);
        for (const auto& [where, name] : flips)
            if (where == communicator.rank()) flip(training, name);
        Stream host = CpuStream(1);
        Log log(training.config, folder, communicator.rank());
        ReplicaAudit audit({training.config, *training.dataset, training.groups, training.stream, host},
                           training.experiment, training.executor, log);
        EXPECT_TRUE(audit.due(100));
        EXPECT_FALSE(audit.due(99));
        try {
            audit.run(100);
        } catch (const SystemError& error) {
            thrown[rank] = error.what();
        }
        outcome.weights[rank] = training.weights();
    });
    for (const std::string& one : thrown)
        EXPECT_EQ(one, thrown[0]) << "ranks end differently";
    outcome.thrown = thrown[0];
    return outcome;
}

} // namespace

TEST(ReplicaAudit, FindsNothingWhereNothingIs) {
    for (const int stage : {0, 1, 2, 3})
        EXPECT_EQ(audited(2, {"parallelism.zero_stage=" + std::to_string(stage)}, {}).thrown, "") << stage;
    EXPECT_EQ(audited(2, {"parallelism.tensor_parallel_degree=2"}, {}).thrown, "");
}

TEST(ReplicaAudit, NamesTensorAndRank) {
    EXPECT_THAT(audited(3, {}, {{1, weight}}).thrown, AllOf(HasSubstr("replicas differ after step 100: '" + weight +
                                                                      "' on rank 1 is not what ranks 0, 2 hold"),
                                                            Not(HasSubstr("more such"))));
    EXPECT_THAT(audited(4, {}, {{3, moment}, {3, weight}}).thrown,
                AllOf(HasSubstr("'" + weight + "' on rank 3 is not what ranks 0, 1, 2 hold"),
                      HasSubstr("(and 1 more such differences)")));
    EXPECT_THAT(audited(2, {}, {{0, moment}}).thrown, HasSubstr("'" + moment + "' is not the same on rank "));
    // Every tensor-parallel rank holds all of a norm.
    EXPECT_THAT(audited(2, {"parallelism.tensor_parallel_degree=2"}, {{1, "norm.scale"}}).thrown,
                HasSubstr("'norm.scale' is not the same on rank "));
    // Under ZeRO nobody else has a rank's part.
    EXPECT_EQ(audited(2, {"parallelism.zero_stage=1"}, {{0, moment}, {1, moment}}).thrown, "");
}

TEST(ReplicaAudit, RepairsFromTheMajority) {
    const Outcome whole = audited(3, {}, {});
    const Outcome repaired = audited(3, {"guard.audit_policy=repair"}, {{1, weight}, {0, moment}});
    EXPECT_EQ(repaired.thrown, "");
    EXPECT_TRUE(repaired.weights == whole.weights);
    EXPECT_FALSE(audited(3, {}, {{1, weight}}).weights == whole.weights) << "nothing was flipped";
    EXPECT_THAT(audited(2, {"guard.audit_policy=repair"}, {{1, weight}}).thrown,
                HasSubstr("no majority tells which is right: '" + weight + "' is not the same on rank "));
}
