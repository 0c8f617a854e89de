// SPDX-License-Identifier: Apache-2.0
// Communicators inside one process: one rank alone, ranks as threads, and what happens when they fall out of step.
#include "parallel/communication/cut.hpp"
#include "parallel/communication/groups.hpp"
#include "parallel/communication/local.hpp"
#include "tests/parallel/collective_checks.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace tessera;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

Buffer private_memory(std::int64_t bytes) { return Buffer(bytes); }

} // namespace

TEST(LocalCommunicator, EveryCollectiveOfOneRank) {
    const auto communicator = make_local_communicator();
    Stream stream = CpuStream(1);
    test::check_all({"alone", *communicator, private_memory, stream});
    EXPECT_EQ(communicator->bytes_sent(), 0);
}

class Threads : public testing::TestWithParam<int> {};

TEST_P(Threads, EveryCollective) {
    run_as_threads(GetParam(), [](Communicator& communicator) {
        Stream stream = CpuStream(1);
        test::check_all({"threads", communicator, private_memory, stream});
        const auto allocate = [&](std::int64_t bytes) { return communicator.allocate(stream, bytes); };
        test::check_all_reduce_of<float>({"threads, allocated", communicator, allocate, stream}, 1000, Reduction::sum);
    });
}

INSTANTIATE_TEST_SUITE_P(Ranks, Threads, testing::Values(1, 2, 3, 4, 5));

TEST(ThreadRanks, AnExceptionEndsAllRanksAndIsHandedOver) {
    const auto body = [](Communicator& communicator) {
        Stream stream = CpuStream(1);
        communicator.barrier(stream);
        if (communicator.rank() == 1) throw ConfigError("rank 1 has had enough");
        communicator.barrier(stream);
    };
    EXPECT_THAT([&] { run_as_threads(3, body); }, ThrowsMessage<ConfigError>("rank 1 has had enough"));
}

TEST(ThreadRanks, RanksOutOfStepAreNamed) {
    const auto body = [](Communicator& communicator) {
        Stream stream = CpuStream(1);
        std::vector<float> memory(8);
        const View view(memory.data(), Shape{communicator.rank() == 0 ? 8 : 4}, DType::f32);
        communicator.all_reduce(stream, view, Reduction::sum);
    };
    EXPECT_THAT([&] { run_as_threads(2, body); },
                ThrowsMessage<InternalError>(testing::AllOf(HasSubstr("32 bytes"), HasSubstr("16 bytes"))));
}

TEST(Groups, WithoutMpi) {
    const Mesh one({{"data", 1}, {"tensor", 1}});
    Groups alone(one);
    EXPECT_EQ(alone.axis(1).size(), 1);
    EXPECT_THROW(Groups(Mesh({{"data", 2}})), ConfigError);
    run_as_threads(2, [](Communicator& communicator) {
        Groups groups(Mesh({{"data", 2}, {"tensor", 1}}), communicator);
        EXPECT_EQ(groups.axis(0).size(), 2);
        EXPECT_EQ(groups.axis(1).size(), 1);
        EXPECT_EQ(&groups.all(), &communicator);
        EXPECT_THROW(Groups(Mesh({{"data", 3}}), communicator), ConfigError);
    });
}

// Each rank adds its number along each axis of 2 x 3 x 1, and tells the next of the second axis.
TEST(ThreadGroups, ReachAlongEveryAxisOfAMesh) {
    const Mesh mesh({{"data", 2}, {"pipeline", 3}, {"tensor", 1}});
    run_as_threads(mesh, [&](int rank, Groups groups) {
        Stream stream = CpuStream(1);
        const std::vector<int> place = mesh.coordinate(rank);
        for (int axis = 0; axis < 3; ++axis) {
            EXPECT_EQ(groups.axis(axis).rank(), place[static_cast<std::size_t>(axis)]);
            auto sum = static_cast<float>(rank);
            groups.axis(axis).all_reduce(stream, View(&sum, {1}, DType::f32), Reduction::sum);
            int expected = 0;
            for (const int other : mesh.group(rank, axis))
                expected += other;
            EXPECT_EQ(sum, static_cast<float>(expected));
        }
        Communicator& stages = groups.axis(1);
        std::array<float, 3> sent{}, received{};
        std::vector<Communicator::Ticket> tickets;
        for (const int channel : {2, 0, 1}) { // each has an order of its own
            auto& mine = sent[static_cast<std::size_t>(channel)] = static_cast<float>(10 * channel + place[1]);
            if (place[1] < 2)
                tickets.push_back(stages.post(stream, View(&mine, {1}, DType::f32), place[1] + 1, channel));
        }
        for (int channel = 0; channel < 3 && place[1] > 0; ++channel)
            tickets.push_back(stages.expect(stream, View(&received[static_cast<std::size_t>(channel)], {1}, DType::f32),
                                            place[1] - 1, channel));
        for (const Communicator::Ticket ticket : tickets)
            stages.finish(ticket);
        for (int channel = 0; channel < 3 && place[1] > 0; ++channel)
            EXPECT_EQ(received[static_cast<std::size_t>(channel)], static_cast<float>(10 * channel + place[1] - 1));
    });
}

TEST(ThreadGroups, WhoWaitsForAMessageOfARankThatFailedFails) {
    const auto body = [](int rank, Groups groups) {
        Stream stream = CpuStream(1);
        float number = 0;
        if (rank == 1) throw ConfigError("rank 1 has had enough");
        groups.axis(0).finish(groups.axis(0).expect(stream, View(&number, {1}, DType::f32), 1, 0));
    };
    EXPECT_THAT(
        [&] {
            run_as_threads(Mesh({{"pipeline", 2}, {"data", 2}}), body);
        },
        ThrowsMessage<ConfigError>("rank 1 has had enough"));
}

TEST(ThreadGroups, MessagesOfDifferentSizesDoNotMeet) {
    const auto body = [](int rank, Groups groups) {
        Stream stream = CpuStream(1);
        std::array<float, 2> numbers{};
        const View view(numbers.data(), {rank + 1}, DType::f32);
        Communicator& stages = groups.axis(0);
        stages.finish(rank == 0 ? stages.post(stream, view, 1, 0) : stages.expect(stream, view, 0, 0));
    };
    EXPECT_THAT(
        [&] {
            run_as_threads(Mesh({{"pipeline", 2}, {"data", 1}}), body);
        },
        ThrowsMessage<InternalError>(HasSubstr("bytes meets one of")));
}

TEST(Workspace, IsAtMostOneMebibyteFromEachOtherCpuRank) {
    EXPECT_EQ(tree_reduce_workspace_bytes(1000, 1, BackEnd::mpi), 0);
    EXPECT_EQ(tree_reduce_workspace_bytes(1000, 4, BackEnd::shared_memory), 0);
    EXPECT_EQ(tree_reduce_workspace_bytes(1000, 4, BackEnd::mpi), 3 * 256);
    EXPECT_EQ(tree_reduce_workspace_bytes(std::int64_t{1} << 40, 4, BackEnd::mpi), 3 << 20);
}

TEST(Workspace, IsAbout128MebibytesBetweenGpus) {
    EXPECT_EQ(tree_reduce_workspace_bytes(1000, 1, BackEnd::nccl), 0);
    EXPECT_EQ(tree_reduce_workspace_bytes(1000, 4, BackEnd::nccl), 3 * 256);
    EXPECT_EQ(tree_reduce_workspace_bytes(std::int64_t{1} << 40, 2, BackEnd::nccl), 128 << 20);
    EXPECT_EQ(tree_reduce_workspace_bytes(std::int64_t{1} << 40, 1025, BackEnd::nccl), 1024 << 20);
    const std::int64_t odd = tree_reduce_workspace_bytes(std::int64_t{1} << 40, 8, BackEnd::nccl);
    EXPECT_EQ(odd % (7 * alignment_bytes), 0);
    EXPECT_NEAR(static_cast<double>(odd), 128 << 20, 7 * alignment_bytes);
}

TEST(Cut, CountsBeyond32Bits) {
    constexpr std::int64_t bytes = (std::int64_t{3} << 33) + 4;
    std::int64_t end = 0;
    for (int rank = 0; rank < 7; ++rank) {
        const Range slice = slice_bytes(bytes, 7, rank);
        EXPECT_EQ(slice.begin, end);
        EXPECT_GT(slice.size(), std::int64_t{1} << 31);
        end = slice.end;
    }
    EXPECT_EQ(end, bytes);
    const View whole(nullptr, Shape{5, std::int64_t{1} << 31}, DType::bf16);
    EXPECT_EQ(part_bytes(whole, 1, 2, 1), (Range{std::int64_t{3} << 32, std::int64_t{5} << 32}));
    EXPECT_EQ(piece_of({std::int64_t{1} << 40, std::int64_t{3} << 40}, std::int64_t{1} << 39, std::int64_t{1} << 35),
              (Range{std::int64_t{3} << 39, (std::int64_t{3} << 39) + (std::int64_t{1} << 35)}));
}
