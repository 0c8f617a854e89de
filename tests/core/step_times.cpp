// SPDX-License-Identifier: Apache-2.0
// Accounts of time, and who is said to be slow, and why.
#include "core/run/step_times.hpp"

#include <chrono>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <thread>

namespace tessera {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

// Ten steps of four ranks on two hosts: 80 ms of computing, 20 of communication.
StepTimes even() { return {10, {"data"}, std::vector<RankTimes>(4, {0.8, 0.02, 0, 0, {0.2}})}; }
const std::vector<RankOfPeers> alike{{"h1", ""}, {"h1", ""}, {"h2", ""}, {"h2", ""}};

TEST(SlowRanks, NobodyWhereAllAreAlike) {
    EXPECT_THAT(slow_ranks(even(), alike), IsEmpty());
    StepTimes times = even();
    times.ranks[1].communication[0] = 5; // waits for others, for whatever reason
    EXPECT_THAT(slow_ranks(times, alike), IsEmpty());
}

TEST(SlowRanks, TheReasonIsWhereItIsFurthestFromTheOthers) {
    StepTimes times = even();
    times.ranks[3].input = 0.41;
    EXPECT_THAT(slow_ranks(times, alike),
                ElementsAre("rank 3 on h2: 41.0 of 141.0 ms of a step in input, the others like it 2.0 ms"));
    times = even();
    times.ranks[0].computing = 1.6;
    EXPECT_THAT(slow_ranks(times, alike),
                ElementsAre(HasSubstr("rank 0 on h1: 160.0 of 182.0 ms of a step computing")));
    times = even();
    times.ranks[2].saving = 3;
    EXPECT_THAT(slow_ranks(times, alike), ElementsAre(HasSubstr("rank 2 on h2: 300.0 of 402.0 ms of a step saving")));
    times = even();
    times.ranks[2].evaluation = 3;
    EXPECT_THAT(slow_ranks(times, alike), ElementsAre(HasSubstr("in evaluation")));
}

TEST(SlowRanks, TheSlowestFirst) {
    StepTimes times{1, {}, std::vector<RankTimes>(9, {1, 0, 0, 0, {}})};
    times.ranks[2].computing = 2;
    times.ranks[7].input = 5;
    EXPECT_THAT(slow_ranks(times, std::vector<RankOfPeers>(9, {"h", ""})),
                ElementsAre(HasSubstr("rank 7"), HasSubstr("rank 2")));
}

TEST(SlowRanks, AreComparedWithTheirLike) {
    StepTimes times = even(); // ranks 2 and 3 are another stage, with twice the work
    times.ranks[2].computing = times.ranks[3].computing = 1.6;
    const std::vector<RankOfPeers> stages{{"h", "0"}, {"h", "0"}, {"h", "1"}, {"h", "1"}};
    EXPECT_THAT(slow_ranks(times, stages), IsEmpty());
    times.ranks[3].computing = 9;
    EXPECT_THAT(slow_ranks(times, stages), AllOf(SizeIs(1), ElementsAre(HasSubstr("rank 3"))));
}

TEST(StepTimes, TheMeanOfAllRanks) {
    StepTimes times = even();
    times.axes = {"all ranks", "data"};
    for (RankTimes& rank : times.ranks) {
        rank.communication = {0.05, 0.15};
        rank.waited = 0.015;
    }
    times.ranks[0].computing = 1.2;
    EXPECT_EQ(mean_times(times),
              "a step, mean of 4 ranks: computing 90.0 ms, waiting for data 1.50 ms (1.3 %), copying them 0.5 ms, "
              "communication 20.0 ms (all ranks 5.0, data 15.0)");
    EXPECT_EQ(mean_times({1, {}, {{0.001, 0, 0, 0, {}}}}),
              "a step, mean of 1 rank: computing 1.0 ms, waiting for data 0.00 ms (0 %)");
}

void pass(int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); }

TEST(TimeAccount, EachSecondIsCountedOnceAndUnderItsName) {
    FlightRecorder recorder;
    TimeAccount account(recorder, 2);
    recorder.begin(Activity::training);
    account.take();
    const std::int64_t begin = monotonic_now();
    pass(2); // computing
    recorder.reads_data();
    pass(20);
    recorder.computes("a node");
    const std::size_t call = recorder.began(1, CallKind::all_reduce, DType::f32, 4, -1);
    pass(40);
    recorder.ended(call, CallState::ended);
    {
        const FlightRecorder::Scope saving(recorder, Activity::saving);
        pass(60);
        const std::size_t barrier = recorder.began(0, CallKind::barrier, DType::f32, 0, -1);
        pass(10); // others are slower: no time of its own
        recorder.ended(barrier, CallState::ended);
    }
    {
        const FlightRecorder::Scope evaluating(recorder, Activity::evaluating);
        recorder.reads_data();
        pass(5);
    }
    const RankTimes times = account.take();
    const double all = static_cast<double>(monotonic_now() - begin) / 1e9;
    EXPECT_GE(times.computing, 0.002);
    EXPECT_GE(times.input, 0.020);
    EXPECT_GE(times.saving, 0.060);
    EXPECT_GE(times.evaluation, 0.005);
    EXPECT_GE(times.communication[0], 0.010);
    EXPECT_GE(times.communication[1], 0.040);
    EXPECT_NEAR(times.own() + times.communicated(), all, 0.001 + 0.05 * all);
    EXPECT_LE(times.own() + times.communicated(), all);
    EXPECT_LT(account.take().own(), all); // it starts anew
}

TEST(TimeAccount, HearsNothingOnceItIsGone) {
    FlightRecorder recorder;
    { const TimeAccount account(recorder, 1); }
    recorder.begin(Activity::training);
    recorder.ended(recorder.began(0, CallKind::barrier, DType::f32, 0, -1), CallState::ended);
}

} // namespace
} // namespace tessera
