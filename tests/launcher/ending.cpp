// SPDX-License-Identifier: Apache-2.0
// What a job's end is taken for, and when it is started again.
#include "launcher/job/ending.hpp"

#include "core/exit_codes.hpp"

#include <gtest/gtest.h>

namespace tessera {
namespace {

using namespace std::chrono_literals;

// As Open MPI 4.1 says it, in blocks between dashes and wrapped.
const char* const killed = "Primary job  terminated normally, but 1 process returned\na non-zero exit code.\n"
                           "mpirun noticed that process rank 2 with PID 0 on node c03 exited on signal 9 (Killed).\n";
const char* const coded =
    "mpirun detected that one or more processes exited with non-zero status, thus causing\nthe job to "
    "be terminated. The first process to do so was:\n\n  Process name: [[8103,1],2]\n  Exit code:    3\n";
const char* const improper =
    "mpirun has exited due to process rank 1 with PID 0 on\nnode vm exiting improperly. There are "
    "three reasons this could occur:\n";
const char* const lost_host =
    "ORTE has lost communication with a remote daemon.\n\n  HNP daemon   : [[40499,0],0] on node c01\n  Remote daemon: "
    "[[40499,0],2] on node c03\n\nThis is usually due to either a failure of the TCP network\n";

std::string no_host(std::int64_t) { return ""; }
std::string some_host(std::int64_t rank) { return rank < 2 ? "c01" : "c03"; }

JobFailure failure_of(const std::string& kind, int code, int rank, const std::string& message) {
    return {kind, code, {rank, "c01", 77}, 12, message, 1};
}

TEST(Ending, ReadsWhatMpirunSays) {
    const std::optional<MpirunWord> signal = read_mpirun(killed), code = read_mpirun(coded),
                                    left = read_mpirun(improper);
    ASSERT_TRUE(signal && code && left);
    EXPECT_EQ(signal->rank, 2);
    EXPECT_EQ(signal->host, "c03");
    EXPECT_EQ(signal->signal, 9);
    EXPECT_EQ(code->rank, 2);
    EXPECT_EQ(code->code, 3);
    EXPECT_EQ(left->rank, 1);
    EXPECT_TRUE(left->improper);
    EXPECT_FALSE(read_mpirun("There are not enough slots available in the system"));
}

TEST(Ending, ReadsWhatRanksSay) {
    const std::vector<RankWord> words = read_rank_words(
        "[info] step\ntessera: rank 3: no room: 5\ntessera: rank x: y\ntessera: other\ntessera: rank 12: z\n");
    ASSERT_EQ(words.size(), 2u);
    EXPECT_EQ(words[0].rank, 3);
    EXPECT_EQ(words[0].message, "no room: 5");
    EXPECT_EQ(words[1].rank, 12);
}

TEST(Ending, OfARunThatEndedWellIsNoFailure) {
    for (const int code : {exit_code::done, exit_code::run_again}) {
        const Ending ending = classify({code, Asked::nothing, false}, {}, "", {}, 7, no_host);
        EXPECT_EQ(ending.code, code);
        EXPECT_FALSE(ending.may_restart);
        EXPECT_EQ(ending.sentence, "");
    }
    EXPECT_EQ(classify({137, Asked::end_now, true}, {}, killed, {}, 7, no_host).code, exit_code::interrupted);
}

TEST(Ending, NamesTheRankAndItsHost) {
    const Ending ending = classify({137, Asked::nothing, false}, {}, killed, {}, 7, some_host);
    EXPECT_EQ(ending.code, exit_code::lost);
    EXPECT_TRUE(ending.may_restart);
    EXPECT_EQ(ending.rank, 2);
    EXPECT_EQ(ending.step, 8);
    EXPECT_EQ(ending.sentence, "rank 2 on c03 was ended by signal 9 (Killed)");
    EXPECT_EQ(classify({1, Asked::nothing, false}, {}, improper, {}, 7, some_host).sentence,
              "rank 1 on c01 left without a word (without MPI_Finalize)");
    EXPECT_EQ(classify({137, Asked::nothing, false}, {}, "", {}, 7, no_host).sentence,
              "what started the ranks was ended by signal 9 (Killed)");
    EXPECT_EQ(classify({143, Asked::nothing, true}, {}, "", {}, 7, no_host).sentence,
              "no rank was left on this host, and what started them waited on");
    // Asked to stop, it did not manage to: not to be started again.
    EXPECT_FALSE(classify({137, Asked::save_and_stop, true}, {}, killed, {}, 7, some_host).may_restart);
}

TEST(Ending, OfWhatNoRestartHelpsAgainst) {
    for (const auto& [kind, code, restart] : {std::tuple{"config", 2, false},
                                              {"data", 3, false},
                                              {"diverged", 5, false},
                                              {"error", 1, true},
                                              {"lost", 4, true},
                                              {"stalled", 4, true}}) {
        const Ending ending =
            classify({code, Asked::nothing, false}, failure_of(kind, code, 0, "why"), "", {}, 7, no_host);
        EXPECT_EQ(ending.code, code);
        EXPECT_EQ(ending.may_restart, restart) << kind;
        EXPECT_EQ(ending.step, 12);
        EXPECT_EQ(ending.sentence, "rank 0 on c01: why");
    }
    EXPECT_FALSE(classify({2, Asked::nothing, false}, {}, "", {{0, "no such key"}}, 0, no_host).may_restart);
    EXPECT_EQ(classify({3, Asked::nothing, false}, {}, coded, {{2, "no such file"}}, 0, no_host).code, exit_code::data);
}

TEST(Ending, SaysOfHowManyRanksItIs) {
    const std::vector<RankWord> words{
        {0, "disk full"}, {1, "disk full"}, {2, "other"}, {3, "disk full"}, {3, "disk full"}};
    EXPECT_EQ(
        classify({1, Asked::nothing, false}, failure_of("error", 1, 1, "disk full"), "", words, 7, no_host).sentence,
        "rank 1 on c01: disk full (and 2 more ranks)");
    EXPECT_EQ(classify({1, Asked::nothing, false}, {}, "", words, 7, some_host).sentence,
              "rank 0 on c01: disk full (and 2 more ranks)");
}

// Whose link broke is not to blame, when another was killed.
TEST(Ending, BlamesTheOneThatWasKilled) {
    EXPECT_EQ(
        classify({1, Asked::nothing, false}, failure_of("lost", 4, 0, "lost rank 2"), killed, {}, 7, some_host).rank,
        2);
    EXPECT_EQ(
        classify({4, Asked::nothing, false}, failure_of("stalled", 4, 0, "stands still"), killed, {}, 7, some_host)
            .rank,
        0);
}

// mpirun then ends the other ranks, who miss each other.
TEST(Ending, BlamesTheHostThatIsLost) {
    const auto four = [](std::int64_t rank) { return rank < 2 ? "c01" : rank < 4 ? "c03.cluster" : ""; };
    const ChildEnd end{1, Asked::nothing, false};
    for (const std::optional<JobFailure>& failure :
         {std::optional<JobFailure>(), std::optional(failure_of("lost", 4, 0, "its process is gone")),
          std::optional(failure_of("stalled", 4, 1, "has waited"))}) {
        const Ending ending = classify(end, failure, lost_host, {}, 7, four);
        EXPECT_EQ(ending.sentence, "ranks 2, 3 on c03: the host does not answer, mpirun has lost it");
        EXPECT_EQ(ending.rank, 2);
        EXPECT_EQ(ending.code, exit_code::lost);
        EXPECT_TRUE(ending.may_restart);
    }
    JobFailure named = failure_of("stalled", 4, 3, "its host does not answer");
    named.place.host = "c03";
    EXPECT_EQ(classify(end, named, lost_host, {}, 7, four).rank, 3);
    EXPECT_EQ(classify(end, failure_of("data", 3, 0, "no file"), lost_host, {}, 7, four).code, exit_code::data);
    EXPECT_EQ(classify(end, {}, lost_host, {}, 7, no_host).sentence,
              "the ranks on c03: the host does not answer, mpirun has lost it");
}

Ending lost(std::int64_t step, int rank) { return {exit_code::lost, true, rank, step, "lost"}; }

TEST(RestartPolicy, WaitsTwiceAsLongEachTime) {
    RestartPolicy policy(12, 1000ms);
    std::vector<std::int64_t> waits;
    for (int i = 0; i < 12; ++i) {
        EXPECT_TRUE(policy.again(lost(i, 0)));
        waits.push_back(policy.wait().count() / 1000);
    }
    EXPECT_EQ(waits, (std::vector<std::int64_t>{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300}));
    EXPECT_FALSE(policy.again(lost(20, 0)));
    EXPECT_EQ(policy.why_not(), "no restart is left of 12 (--max-restarts)");
}

TEST(RestartPolicy, StopsWhereTheSameStepFailsThreeTimes) {
    RestartPolicy policy(100, 0ms);
    EXPECT_TRUE(policy.again(lost(1234, 2)));
    EXPECT_TRUE(policy.again(lost(1234, 2)));
    EXPECT_TRUE(policy.again(lost(1300, 2)));
    EXPECT_TRUE(policy.again(lost(1234, 2)));
    EXPECT_TRUE(policy.again(lost(1234, 2)));
    EXPECT_FALSE(policy.again(lost(1234, 2)));
    EXPECT_EQ(policy.why_not(), "step 1234 failed 3 times on rank 2");
    RestartPolicy other(100, 0ms);
    EXPECT_TRUE(other.again(lost(5, 2)) && other.again(lost(5, 0)));
    EXPECT_FALSE(other.again(lost(5, 2)));
    EXPECT_EQ(other.why_not(), "step 5 failed 3 times on ranks 0, 2");
}

TEST(RestartPolicy, CountsNoStepWhereNoneWasUnderWay) {
    RestartPolicy policy(5, 0ms); // hosts that do not answer
    for (int i = 0; i < 5; ++i)
        EXPECT_TRUE(policy.again(lost(-1, -1)));
    EXPECT_FALSE(policy.again(lost(-1, -1)));
    EXPECT_EQ(policy.why_not(), "no restart is left of 5 (--max-restarts)");
}

TEST(RestartPolicy, NeverStartsWhatCannotBeMendedSo) {
    RestartPolicy policy(100, 0ms);
    EXPECT_FALSE(policy.again({exit_code::usage, false, 0, 1, "no such key"}));
    EXPECT_EQ(policy.why_not(), "");
    EXPECT_FALSE(RestartPolicy(0, 0ms).again(lost(1, 0)));
}

} // namespace
} // namespace tessera
