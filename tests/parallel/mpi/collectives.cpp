// SPDX-License-Identifier: Apache-2.0
// The communicators between processes: against the plain computation, against MPI's own answers, and against each
// other.
#include "parallel/communication/groups.hpp"
#include "parallel/communication/mpi.hpp"
#include "parallel/communication/shared_memory.hpp"
#include "tests/parallel/collective_checks.hpp"
#include "tests/support/mpi_main.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mpi.h>

using namespace tessera;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

ProcessGroup everyone() { return test::world().group().split(0, test::world().rank()); }

Buffer private_memory(std::int64_t bytes) { return Buffer(bytes); }

test::Arrangement arrange(const char* name, Communicator& communicator, Stream& stream) {
    return {name, communicator, private_memory, stream};
}

// What MPI itself says of the same inputs: exact but for float sums, whose order is its own.
void compare_with_mpi(Communicator& communicator, std::int64_t size) {
    Stream stream = CpuStream(1);
    const auto count = static_cast<int>(size);
    std::vector<float> ours(static_cast<std::size_t>(size)), theirs(ours.size());
    std::vector<std::int32_t> our_integers(ours.size()), their_integers(ours.size());
    for (const Reduction reduction : {Reduction::sum, Reduction::max, Reduction::min}) {
        const MPI_Op operation = reduction == Reduction::sum   ? MPI_SUM
                                 : reduction == Reduction::max ? MPI_MAX
                                                               : MPI_MIN;
        for (std::int64_t i = 0; i < size; ++i) {
            ours[static_cast<std::size_t>(i)] = test::value<float>(1, communicator.rank(), i);
            our_integers[static_cast<std::size_t>(i)] = test::value<std::int32_t>(2, communicator.rank(), i);
        }
        MPI_Allreduce(ours.data(), theirs.data(), count, MPI_FLOAT, operation, MPI_COMM_WORLD);
        MPI_Allreduce(our_integers.data(), their_integers.data(), count, MPI_INT32_T, operation, MPI_COMM_WORLD);
        communicator.all_reduce(stream, View(ours.data(), Shape{size}, DType::f32), reduction);
        communicator.all_reduce(stream, View(our_integers.data(), Shape{size}, DType::i32), reduction);
        EXPECT_EQ(our_integers, their_integers);
        float largest = 0; // difference; the summands are below 32
        for (std::size_t i = 0; i < ours.size(); ++i)
            largest = std::max(largest, std::abs(ours[i] - theirs[i]));
        EXPECT_LE(largest, reduction == Reduction::sum ? 32 * 4 * 0x1p-22f : 0.0f);
    }
    const int ranks = communicator.size();
    std::vector<float> gathered(ours.size() * static_cast<std::size_t>(ranks)), exchanged(gathered.size());
    std::vector<float> expected(gathered.size());
    MPI_Allgather(ours.data(), count, MPI_FLOAT, expected.data(), count, MPI_FLOAT, MPI_COMM_WORLD);
    const Shape whole{size * ranks};
    communicator.all_gather(stream, View(ours.data(), Shape{size}, DType::f32),
                            View(gathered.data(), whole, DType::f32));
    EXPECT_EQ(gathered, expected);
    for (std::size_t i = 0; i < gathered.size(); ++i)
        gathered[i] = test::value<float>(3, communicator.rank(), static_cast<std::int64_t>(i));
    MPI_Alltoall(gathered.data(), count, MPI_FLOAT, expected.data(), count, MPI_FLOAT, MPI_COMM_WORLD);
    communicator.all_to_all(stream, View(gathered.data(), whole, DType::f32),
                            View(exchanged.data(), whole, DType::f32));
    EXPECT_EQ(exchanged, expected);
}

} // namespace

TEST(MpiCommunicator, EveryCollective) {
    const auto communicator = make_mpi_communicator(everyone());
    Stream stream = CpuStream(1);
    test::check_all(arrange("mpi", *communicator, stream));
}

TEST(MpiCommunicator, EveryCollectiveWithAWorkspace) {
    const auto communicator = make_mpi_communicator(everyone());
    const std::int64_t bytes = communicator->workspace_bytes(Collective::all_reduce, 4 * test::large_size);
    EXPECT_EQ(bytes, tree_reduce_workspace_bytes(4 * test::large_size, communicator->size(), BackEnd::mpi));
    const Buffer workspace(bytes);
    communicator->use_workspace(View(workspace.data(), Shape{bytes / 4}, DType::f32));
    Stream stream = CpuStream(1);
    const test::Arrangement arrangement = arrange("mpi with a workspace", *communicator, stream);
    test::check_all_reduce(arrangement);
    test::check_tree_reduce(arrangement);
    test::check_reduce_scatter(arrangement);
}

TEST(MpiCommunicator, AgreesWithMpi) {
    const auto communicator = make_mpi_communicator(everyone());
    for (const std::int64_t size : {0, 1, 1001, 300'000})
        compare_with_mpi(*communicator, size);
}

TEST(SharedMemoryCommunicator, EveryCollectiveInSharedBuffers) {
    const auto communicator = make_shared_memory_communicator(everyone());
    Stream stream = CpuStream(1);
    test::check_all({"shared memory", *communicator,
                     [&](std::int64_t bytes) { return communicator->allocate(stream, bytes); }, stream});
}

TEST(SharedMemoryCommunicator, EveryCollectiveInPrivateBuffers) {
    const auto communicator = make_shared_memory_communicator(everyone());
    Stream stream = CpuStream(1);
    test::check_all(arrange("shared memory, staged", *communicator, stream));
}

TEST(SharedMemoryCommunicator, AgreesWithMpi) {
    const auto communicator = make_shared_memory_communicator(everyone());
    for (const std::int64_t size : {0, 1, 1001, 300'000})
        compare_with_mpi(*communicator, size);
}

// One rank's buffer within reach, the others' private: all must choose the same way.
TEST(SharedMemoryCommunicator, MixedBuffers) {
    const auto communicator = make_shared_memory_communicator(everyone());
    Stream stream = CpuStream(1);
    std::vector<Buffer> shared; // kept: a shared buffer is freed by all ranks or by none
    const auto allocate = [&](std::int64_t bytes) {
        shared.push_back(communicator->allocate(stream, bytes));
        return communicator->rank() == 0 ? std::move(shared.back()) : Buffer(bytes);
    };
    const test::Arrangement mixed{"mixed", *communicator, allocate, stream};
    test::check_tree_reduce_of(mixed, 100'000, 8);
    test::check_all_gather_of<float>(mixed, 100'000, false);
    test::check_send_and_receive(mixed);
}

TEST(SharedMemoryCommunicator, SharedBuffersMayDifferInSizeAndOutliveTheCommunicator) {
    auto communicator = make_shared_memory_communicator(everyone());
    const Stream stream = CpuStream(1);
    Buffer buffer = communicator->allocate(stream, (communicator->rank() + 1) * std::int64_t{3'000'000});
    EXPECT_EQ(buffer.bytes(), (communicator->rank() + 1) * std::int64_t{3'000'000});
    communicator.reset();
    for (std::int64_t i = 0; i < buffer.bytes(); i += 999'999)
        EXPECT_EQ(buffer.data()[i], std::byte{0});
    std::memset(buffer.data(), 1, static_cast<std::size_t>(buffer.bytes()));
}

TEST(SharedMemoryCommunicator, RanksOutOfStepAreNamed) {
    const auto communicator = make_shared_memory_communicator(everyone());
    if (communicator->size() == 1) return;
    Stream stream = CpuStream(1);
    std::vector<float> memory(8);
    const View view(memory.data(), Shape{8}, DType::f32);
    const auto call = [&] {
        if (communicator->rank() == 0)
            communicator->all_reduce(stream, view, Reduction::sum);
        else
            communicator->broadcast(stream, view, 0);
    };
    EXPECT_THAT(call, ThrowsMessage<InternalError>(HasSubstr("out of step")));
}

TEST(SharedMemoryCommunicator, ImpossibleSizesAreASentenceOnEveryRank) {
    const auto communicator = make_shared_memory_communicator(everyone());
    const Stream stream = CpuStream(1);
    EXPECT_THAT([&] { communicator->allocate(stream, communicator->rank() == 0 ? std::int64_t{1} << 50 : 64); },
                ThrowsMessage<SystemError>(HasSubstr("parallelism.shared_memory=false")));
}

TEST(World, KnowsItsPlace) {
    const World& world = test::world();
    EXPECT_LT(world.rank(), world.size());
    EXPECT_EQ(world.local_size(), world.size()); // these tests run on one host
    EXPECT_EQ(world.local_rank(), world.rank());
    EXPECT_FALSE(world.host().empty());
}

TEST(World, AllIsTrueOnlyWhereNobodyObjects) {
    const ProcessGroup& group = test::world().group();
    EXPECT_TRUE(group.all(true));
    EXPECT_FALSE(group.all(group.rank() != group.size() - 1));
    EXPECT_EQ(group.largest(group.rank() - 5), group.size() - 6);
}

TEST(Groups, OneCommunicatorPerAxis) {
    for (const bool shared_memory : {false, true}) {
        World& world = test::world();
        const Mesh mesh =
            world.size() == 4 ? Mesh({{"data", 2}, {"stage", 1}, {"tensor", 2}}) : Mesh({{"data", world.size()}});
        Stream stream = CpuStream(1);
        Groups groups(world, mesh, stream, shared_memory);
        EXPECT_EQ(groups.all().size(), world.size());
        EXPECT_EQ(groups.all().rank(), world.rank());
        for (int axis = 0; axis < mesh.axis_count(); ++axis) {
            const std::vector<int> expected = mesh.group(world.rank(), axis);
            ASSERT_EQ(groups.axis(axis).size(), static_cast<int>(expected.size()));
            std::vector<std::int32_t> ranks(expected.size());
            const std::int32_t own = world.rank();
            ConstView part;
            part.data = &own;
            part.shape = Shape{1};
            part.dtype = DType::i32;
            groups.axis(axis).all_gather(
                stream, part, View(ranks.data(), Shape{static_cast<std::int64_t>(ranks.size())}, DType::i32));
            EXPECT_EQ(ranks, expected);
        }
        EXPECT_THROW(Groups(world, Mesh({{"data", world.size() + 1}}), stream, shared_memory), ConfigError);
    }
}
