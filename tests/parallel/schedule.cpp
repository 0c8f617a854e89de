// SPDX-License-Identifier: Apache-2.0
// Schedules of a pipeline: complete, free of circles, and with the bubbles that the papers give.
#include "parallel/layout/schedule.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <gtest/gtest.h>
#include <map>

namespace tessera {
namespace {

constexpr ScheduleKind all_kinds[] = {ScheduleKind::gpipe, ScheduleKind::one_f_one_b, ScheduleKind::interleaved,
                                      ScheduleKind::zero_bubble};

Makespan of(ScheduleKind kind, int stages, int chunks, std::int64_t micro_batches, ChunkTime time) {
    const Pipeline pipeline{kind, stages, chunks, micro_batches, true};
    return makespan(pipeline, std::vector<ChunkTime>(static_cast<std::size_t>(stages * chunks), time));
}

std::int64_t most_kept(const Pipeline& pipeline, int stage) {
    const Work frees = pipeline.splits_backward() ? Work::weights : Work::backward;
    std::int64_t kept = 0, most = 0;
    for (const Task& task : tasks_of(pipeline, stage)) {
        if (task.work == Work::forward) most = std::max(most, ++kept);
        if (task.work == frees) --kept;
    }
    return most;
}

TEST(Schedule, DoesAllTheWorkOnceInOrderAndNeverWaitsForEver) {
    for (const ScheduleKind kind : all_kinds)
        for (const int chunks : {1, 2, 3, 5})
            for (int stages = 1; stages <= 6; ++stages)
                for (const std::int64_t micro_batches : {1, 2, 3, 4, 6, 7, 12, 19}) {
                    if (chunks > 1 && kind != ScheduleKind::interleaved) continue;
                    const Pipeline pipeline{kind, stages, chunks, micro_batches, true};
                    if (chunks > 1 && micro_batches % stages != 0) {
                        EXPECT_THROW(tasks_of(pipeline, 0), ConfigError);
                        continue;
                    }
                    for (int stage = 0; stage < stages; ++stage) {
                        std::map<std::pair<Work, int>, std::int64_t> next;
                        for (const Task& task : tasks_of(pipeline, stage))
                            EXPECT_EQ(task.micro_batch, (next[{task.work, task.chunk}]++));
                        EXPECT_EQ(static_cast<int>(next.size()), chunks * (pipeline.splits_backward() ? 3 : 2));
                        for (const auto& [what, count] : next)
                            EXPECT_EQ(count, micro_batches);
                    }
                    const Makespan found = of(kind, stages, chunks, micro_batches, {1, 1, 1});
                    EXPECT_GE(found.seconds, static_cast<double>(3 * chunks * micro_batches));
                }
}

TEST(Schedule, HasThePublishedBubbles) {
    const double f = 1.0, b = 1.25, w = 0.75; // of a stage, for one micro-batch
    for (const int p : {2, 4, 8})
        for (const std::int64_t m : {8, 16, 64}) {
            const double ideal = static_cast<double>(m) * (f + b + w);
            EXPECT_NEAR(of(ScheduleKind::gpipe, p, 1, m, {f, b, w}).seconds, ideal + (p - 1) * (f + b + w), 1e-9);
            EXPECT_NEAR(of(ScheduleKind::one_f_one_b, p, 1, m, {f, b, w}).seconds, ideal + (p - 1) * (f + b + w), 1e-9);
            for (const int v : {2, 4})
                EXPECT_NEAR(of(ScheduleKind::interleaved, p, v, m, {f / v, b / v, w / v}).seconds,
                            ideal + (p - 1) * (f + b + w) / v, 1e-9);
            EXPECT_NEAR(of(ScheduleKind::zero_bubble, p, 1, m, {1, 1, 1}).seconds, 3 * static_cast<double>(m) + p - 1,
                        1e-9);
        }
    EXPECT_NEAR(of(ScheduleKind::one_f_one_b, 4, 1, 8, {1, 1, 1}).bubble(), 3.0 / (8 + 3), 1e-12);
}

TEST(Schedule, KeepsNoMoreMicroBatchesThanStages) {
    for (int stage = 0; stage < 4; ++stage) {
        EXPECT_EQ(most_kept({ScheduleKind::gpipe, 4, 1, 12, true}, stage), 12);
        EXPECT_EQ(most_kept({ScheduleKind::one_f_one_b, 4, 1, 12, true}, stage), 4 - stage);
        EXPECT_EQ(most_kept({ScheduleKind::zero_bubble, 4, 1, 12, true}, stage), 4);
    }
}

TEST(Schedule, CountsTransfersAndTheSlowestStage) {
    const Pipeline pipeline{ScheduleKind::one_f_one_b, 2, 1, 1, true};
    EXPECT_DOUBLE_EQ(makespan(pipeline, {{1, 2, 0}, {3, 4, 0}}, {0.5, 0.25}).seconds, 1 + 3 + 4 + 2 + 0.5 + 0.25);
    const Pipeline forward{ScheduleKind::one_f_one_b, 3, 1, 5, false};
    EXPECT_DOUBLE_EQ(makespan(forward, std::vector<ChunkTime>(3, {1, 9, 9})).seconds, 7);
}

TEST(Schedule, RefusesAnUnknownName) {
    EXPECT_EQ(schedule_named("1f1b"), ScheduleKind::one_f_one_b);
    EXPECT_THROW(schedule_named("2f2b"), ConfigError);
}

} // namespace
} // namespace tessera
