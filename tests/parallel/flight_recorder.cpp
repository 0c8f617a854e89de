// SPDX-License-Identifier: Apache-2.0
// The recorder: what it keeps, in which order, what it forgets, and what a reader sees while it writes.
#include "parallel/communication/flight_recorder.hpp"

#include <atomic>
#include <gtest/gtest.h>
#include <stdexcept>
#include <string>
#include <thread>

namespace tessera {
namespace {

TEST(FlightRecorder, KeepsTheLastCalls) {
    FlightRecorder recorder;
    EXPECT_TRUE(recorder.own().calls(10).empty());
    constexpr int calls = 700; // more than there are slots
    for (int i = 1; i <= calls; ++i) {
        recorder.computes("node " + std::to_string(i));
        const std::size_t call = recorder.began(i % 2, CallKind::all_gather, DType::bf16, 8 * i, -1);
        recorder.ended(call, i == calls ? CallState::queued : CallState::ended);
    }
    const std::vector<CallRecord> kept = recorder.own().calls(10'000);
    ASSERT_EQ(kept.size(), FlightRecorder::call_slots);
    for (int i = 0; i < static_cast<int>(kept.size()); ++i) {
        const CallRecord& call = kept[static_cast<std::size_t>(i)];
        const int number = calls - i;
        EXPECT_EQ(call.name, "node " + std::to_string(number));
        EXPECT_EQ(call.axis, number % 2);
        EXPECT_EQ(call.number, (number + 1) / 2); // of its axis
        EXPECT_EQ(call.bytes, 8 * number);
        EXPECT_EQ(call.kind, CallKind::all_gather);
        EXPECT_EQ(call.dtype, DType::bf16);
        EXPECT_EQ(call.peer, -1);
        EXPECT_EQ(call.state, i == 0 ? CallState::queued : CallState::ended);
        EXPECT_LE(call.begun, call.ended);
    }
    EXPECT_EQ(recorder.own().calls(3).size(), 3u);
    EXPECT_EQ(recorder.own().state().calls, calls);
}

TEST(FlightRecorder, MessagesAreNoCallsOfAll) {
    FlightRecorder recorder;
    recorder.began(1, CallKind::all_reduce, DType::f32, 4, -1);
    recorder.began(1, CallKind::send, DType::f32, 4, 3);
    recorder.began(1, CallKind::all_reduce, DType::f32, 4, -1);
    const auto calls = recorder.own().calls(3);
    EXPECT_EQ(calls[0].number, 2);
    EXPECT_EQ(calls[1].number, 1);
    EXPECT_EQ(calls[1].peer, 3);
    EXPECT_EQ(calls[0].state, CallState::begun);
}

TEST(FlightRecorder, LongNamesAreCut) {
    FlightRecorder recorder;
    recorder.computes(std::string(500, 'x'));
    EXPECT_EQ(recorder.own().state().work, std::string(FlightRecorder::name_bytes, 'x'));
    recorder.computes("y");
    EXPECT_EQ(recorder.own().state().work, "y");
}

TEST(FlightRecorder, TellsWhatTheRankIsAt) {
    FlightRecorder recorder;
    const auto state = [&] { return recorder.own().state(); };
    EXPECT_EQ(state().activity, Activity::starting);
    EXPECT_EQ(state().step, -1);
    {
        const FlightRecorder::StepScope step(recorder, 6);
        recorder.begin_micro_batch(2);
        recorder.reads_data();
        EXPECT_EQ(state().activity, Activity::training);
        EXPECT_EQ(state().doing, Doing::reading_data);
        EXPECT_EQ(state().step, 6);
        EXPECT_EQ(state().micro_batch, 2);
        EXPECT_TRUE(state().in_step);
    }
    EXPECT_FALSE(state().in_step);
    EXPECT_EQ(state().steps_timed, 1);
    {
        const FlightRecorder::Scope saving(recorder, Activity::saving, 5);
        EXPECT_EQ(state().activity, Activity::saving);
        EXPECT_EQ(state().expected, 5);
    }
    EXPECT_EQ(state().activity, Activity::training);
    EXPECT_EQ(state().step, 6);
}

TEST(FlightRecorder, TimesStepsThatEndWell) {
    FlightRecorder recorder;
    for (int step = 0; step < 100; ++step)
        const FlightRecorder::StepScope scope(recorder, step);
    EXPECT_EQ(recorder.own().step_times().size(), FlightRecorder::time_slots);
    EXPECT_EQ(recorder.own().state().steps_timed, 100);
    try {
        const FlightRecorder::StepScope scope(recorder, 100);
        throw std::runtime_error("bad");
    } catch (const std::runtime_error&) {
    }
    EXPECT_EQ(recorder.own().state().steps_timed, 100);
}

// Whatever moment is caught, name and bytes are of one call: but where the writer has lost its core in the middle.
TEST(FlightRecorder, IsReadWholeWhileItIsWritten) {
    FlightRecorder recorder;
    std::atomic<bool> done = false;
    std::jthread writer([&] {
        for (int i = 0; !done; ++i) {
            const int which = i % 7;
            recorder.computes(std::string(FlightRecorder::name_bytes, static_cast<char>('a' + which)));
            recorder.ended(recorder.began(0, CallKind::all_reduce, DType::f32, which, -1), CallState::ended);
        }
    });
    int seen = 0, torn = 0;
    while (seen < 100'000)
        for (const CallRecord& call : recorder.own().calls(FlightRecorder::call_slots)) {
            ++seen;
            torn += call.name != std::string(FlightRecorder::name_bytes, static_cast<char>('a' + call.bytes));
        }
    done = true;
    EXPECT_LE(torn, seen / 200);
}

TEST(FlightRecorder, WritesNothingWhilePaused) {
    FlightRecorder recorder;
    const auto one_step = [&](std::int64_t number) {
        const FlightRecorder::StepScope step(recorder, number);
        recorder.begin_micro_batch(number);
        recorder.computes("node " + std::to_string(number));
        recorder.ended(recorder.began(0, CallKind::all_reduce, DType::f32, 4, -1), CallState::ended);
        const FlightRecorder::Scope saving(recorder, Activity::saving);
    };
    one_step(1);
    recorder.pause();
    one_step(2);
    const FlightState state = recorder.own().state();
    EXPECT_EQ(state.step, 1);
    EXPECT_FALSE(state.in_step);
    EXPECT_EQ(state.steps_timed, 1);
    EXPECT_EQ(state.calls, 1);
    recorder.pause(false);
    one_step(3);
    EXPECT_EQ(recorder.own().state().step, 3);
    const std::vector<CallRecord> calls = recorder.own().calls(10);
    ASSERT_EQ(calls.size(), 2u);
    EXPECT_EQ(calls[0].name, "node 3");
    EXPECT_EQ(calls[0].number, 2);
}

TEST(FlightRecorder, AFaultIsAskedAndMaySkip) {
    struct AtReading final : FlightRecorder::Fault {
        bool at(Activity activity, Doing doing, std::int64_t step) override {
            return activity == Activity::training && doing == Doing::reading_data && step == 2;
        }
    };
    FlightRecorder recorder;
    recorder.plant(std::make_unique<AtReading>());
    for (int step = 0; step < 4; ++step) {
        const FlightRecorder::StepScope scope(recorder, step);
        EXPECT_FALSE(recorder.skips_next());
        recorder.reads_data();
        EXPECT_EQ(recorder.skips_next(), step == 2);
        EXPECT_FALSE(recorder.skips_next()); // once
    }
}

} // namespace
} // namespace tessera
