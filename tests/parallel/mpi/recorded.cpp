// SPDX-License-Identifier: Apache-2.0
// Groups that are watched: what they record, what neighbours see of each other, and calls that do not match.
#include "kernels/error.hpp"
#include "parallel/communication/groups.hpp"
#include "tests/support/mpi_main.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace tessera;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

struct Watched {
    explicit Watched(bool check)
        : neighbours(test::world().group().on_this_host()), recorder(neighbours),
          groups(test::world(), Mesh({{"data", test::world().size()}}), stream, true, SumOrder::tree, false,
                 Groups::Watch{recorder, check}) {}

    Stream stream = CpuStream(1);
    ProcessGroup neighbours;
    FlightRecorder recorder;
    Groups groups;
};

void sum(Watched& watched, std::int64_t count, const char* name) {
    std::vector<float> numbers(static_cast<std::size_t>(count), 1.0f);
    watched.recorder.computes(name);
    watched.groups.axis(0).all_reduce(watched.stream, View(numbers.data(), Shape{count}, DType::f32), Reduction::sum);
    EXPECT_EQ(numbers.back(), static_cast<float>(test::world().size()));
}

TEST(Recorded, NeighboursReadEachOthersCalls) {
    Watched watched(false);
    sum(watched, 100, "weights of layer 1");
    sum(watched, 50, "weights of layer 2");
    watched.groups.all().barrier(watched.stream);
    if (test::world().size() == 1) return; // nothing to record
    for (int rank = 0; rank < test::world().size(); ++rank) {
        const std::vector<CallRecord> calls = watched.recorder.of_neighbour(rank).calls(3);
        ASSERT_EQ(calls.size(), 3u);
        EXPECT_EQ(calls[2].name, "weights of layer 1");
        EXPECT_EQ(calls[2].bytes, 400);
        EXPECT_EQ(calls[1].name, "weights of layer 2");
        EXPECT_EQ(calls[1].number, calls[2].number + 1);
        EXPECT_EQ(calls[1].state, CallState::ended);
        EXPECT_EQ(calls[0].kind, CallKind::barrier);
    }
    watched.neighbours.barrier(); // before one goes on
}

TEST(Recorded, WhatDoesNotMatchIsAnErrorOnEveryRank) {
    if (test::world().size() == 1) return;
    const bool odd = test::world().rank() == test::world().size() - 1;
    const auto mismatch = [](const auto& call, const char* first, const char* second) {
        EXPECT_THAT(call, ThrowsMessage<InternalError>(
                              testing::AllOf(HasSubstr("different collectives"), HasSubstr(first), HasSubstr(second))));
    };
    Watched watched(true);
    sum(watched, 10, "same");
    // in size
    mismatch([&] { sum(watched, odd ? 6 : 5, "a"); }, "all_reduce 'a' of 20 bytes, (5) of f32",
             "all_reduce 'a' of 24 bytes, (6) of f32");
    // in name
    mismatch([&] { sum(watched, 5, odd ? "b" : "a"); }, "'a'", "'b'");
    // in kind
    mismatch(
        [&] {
            watched.recorder.computes("c");
            if (odd)
                watched.groups.all().barrier(watched.stream);
            else
                sum(watched, 5, "c");
        },
        "all_reduce 'c'", "barrier 'c'");
    // in shape: as many bytes
    mismatch(
        [&] {
            std::vector<float> numbers(12);
            const Shape shape = odd ? Shape{2, 2, 3} : Shape{2, 3, 2};
            watched.groups.all().broadcast(watched.stream, View(numbers.data(), shape, DType::f32), 0);
        },
        "of 48 bytes, (2, 3, 2) of f32", "of 48 bytes, (2, 2, 3) of f32");
    // in dtype
    mismatch(
        [&] {
            std::vector<float> numbers(4);
            watched.groups.all().broadcast(watched.stream,
                                           View(numbers.data(), Shape{4}, odd ? DType::i32 : DType::f32), 0);
        },
        "of 16 bytes, (4) of f32", "of 16 bytes, (4) of i32");
    sum(watched, 10, "same"); // nothing of a refused call is left on its way
}

} // namespace
