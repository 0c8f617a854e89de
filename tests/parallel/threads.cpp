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
