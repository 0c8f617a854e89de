// SPDX-License-Identifier: Apache-2.0
// The communicators of ranks with GPUs: every collective against the plain computation, sums against the CPU's bits,
// and what ends with a sentence and not with waiting for ever. GPUs and NCCL are those that the program is linked with.
#include "parallel/communication/nccl.hpp"

#include "kernels/copy.hpp"
#include "parallel/communication/groups.hpp"
#include "parallel/communication/local.hpp"
#include "parallel/communication/mpi.hpp"
#include "parallel/communication/shared_memory.hpp"
#include "tests/parallel/collective_checks.hpp"
#include "tests/support/mpi_main.hpp"

#include <cstdlib>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nccl.h>

using namespace tessera;
using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

[[maybe_unused]] const int four_gpus = setenv("TESSERA_EMULATION_DEVICES", "4", 0); // before the emulation looks

bool asynchronous() {
    const char* streams = std::getenv("TESSERA_EMULATION_STREAMS");
    return streams != nullptr && std::string_view(streams) == "threads";
}

ProcessGroup everyone() { return test::world().group().split(0, test::world().rank()); }

class Nccl : public testing::Test {
protected:
    std::unique_ptr<Communicator> connect(SumOrder order = SumOrder::tree) {
        std::vector<AxisRanks> axes;
        axes.push_back({"data", everyone()});
        return std::move(make_nccl_communicators(std::get<CudaStream>(stream), axes, order).front());
    }
    Buffer memory(std::int64_t bytes) const { return allocate(std::get<CudaStream>(stream), bytes); }
    test::Arrangement arrange(const char* name, Communicator& communicator) {
        return {name, communicator, [this](std::int64_t bytes) { return memory(bytes); }, stream};
    }

    const World& world = test::world();
    Stream stream = CudaStream(world.local_rank() % gpu_count());
};

// What the tests' substitutes notice, and NCCL itself waits in for ever.
class NcclSubstitute : public Nccl {};

// A number that only some ranks add, so that the others are missing.
struct Number {
    explicit Number(Stream& on) : stream(on), buffer(allocate(std::get<CudaStream>(stream), 32)) {}
    View view(DType dtype) const { return {buffer.data(), Shape{32 / bytes_of(dtype)}, dtype}; }
    Stream& stream;
    Buffer buffer;
};

} // namespace

TEST_F(Nccl, EveryCollective) {
    const auto communicator = connect();
    EXPECT_EQ(communicator->rank(), world.rank());
    EXPECT_EQ(communicator->size(), world.size());
    test::check_all(arrange("nccl", *communicator));
}

TEST_F(Nccl, EveryReductionWithAWorkspace) {
    const auto communicator = connect();
    const std::int64_t bytes = communicator->workspace_bytes(Collective::all_reduce, 4 * test::large_size);
    EXPECT_EQ(bytes, tree_reduce_workspace_bytes(4 * test::large_size, communicator->size(), BackEnd::nccl));
    const Buffer workspace = memory(bytes);
    communicator->use_workspace(View(workspace.data(), Shape{bytes / 4}, DType::f32));
    const test::Arrangement ranks = arrange("nccl with a workspace", *communicator);
    test::check_all_reduce(ranks);
    test::check_tree_reduce(ranks);
    test::check_reduce_scatter(ranks);
}

TEST_F(Nccl, TreeReduceHasTheBitsOfCpuRanks) {
    const auto on_gpus = connect();
    const auto on_cpus = make_mpi_communicator(everyone());
    Stream cpu = CpuStream(1);
    const test::Arrangement gpus = arrange("nccl", *on_gpus);
    const test::Arrangement cpus{"mpi", *on_cpus, [](std::int64_t bytes) { return Buffer(bytes); }, cpu};
    for (const std::int64_t leaves : {4, 7, 64}) {
        const SummationTree tree(leaves, world.size());
        test::Tensor<float> ours(gpus, Shape{test::large_size}), theirs(cpus, Shape{test::large_size});
        ours.fill(leaves, world.rank());
        theirs.fill(leaves, world.rank());
        on_gpus->tree_reduce(stream, ours.hand_over(), tree);
        on_cpus->tree_reduce(cpu, theirs.view(), tree);
        EXPECT_EQ(ours.wrong([&](std::int64_t i) { return theirs.data[i]; }), 0);
    }
}

// The library's order is another one: its sums of floats are near, those of integers equal. tree_reduce is as ever.
TEST_F(Nccl, SumsInTheLibrarysOrder) {
    const auto communicator = connect(SumOrder::library);
    const test::Arrangement ranks = arrange("nccl's own sums", *communicator);
    const auto far = [&](const auto& tensor, std::int64_t first, double tolerance) {
        tensor.fetch();
        std::int64_t count = 0;
        for (std::int64_t i = 0; i < tensor.shape.count(); ++i) {
            double sum = 0, magnitude = 0;
            for (int rank = 0; rank < world.size(); ++rank) {
                using T = std::remove_reference_t<decltype(*tensor.data)>;
                sum += static_cast<float>(test::value<T>(1, rank, first + i));
                magnitude += std::abs(static_cast<float>(test::value<T>(1, rank, first + i)));
            }
            count += std::abs(static_cast<float>(tensor.data[i]) - sum) <= tolerance * magnitude ? 0 : 1;
        }
        return count;
    };
    for (const std::int64_t size : {0, 1, 1000, 40'003}) {
        test::Tensor<float> numbers(ranks, Shape{size});
        test::Tensor<BFloat16> halves(ranks, Shape{size});
        numbers.fill(1, world.rank());
        halves.fill(1, world.rank());
        communicator->all_reduce(stream, numbers.hand_over(), Reduction::sum);
        communicator->all_reduce(stream, halves.hand_over(), Reduction::sum);
        EXPECT_EQ(far(numbers, 0, 4 * 0x1p-23), 0);
        EXPECT_EQ(far(halves, 0, 4 * 0x1p-8), 0);
        test::check_all_reduce_of<std::int32_t>(ranks, size, Reduction::sum);
        test::check_all_reduce_of<float>(ranks, size, Reduction::max);
        test::check_tree_reduce_of(ranks, size, 8);
        test::check_reduce_scatter_of<std::int32_t>(ranks, size, size % 2 == 0);
    }
    for (const std::int64_t rows : {12, 13, 12'000, 12'001}) {
        const Range own = shard_range(rows, world.size(), world.rank());
        test::Tensor<float> whole(ranks, Shape{rows, 3}), part(ranks, Shape{own.size(), 3});
        whole.fill(1, world.rank());
        communicator->reduce_scatter(stream, whole.hand_over(), part.view());
        EXPECT_EQ(far(part, own.begin * 3, 4 * 0x1p-23), 0);
    }
    test::check_bytes_sent(ranks);
}

// Nothing waits between the kernels and the collectives.
TEST_F(Nccl, CollectivesKeepTheOrderOfTheStream) {
    const auto communicator = connect();
    constexpr std::int64_t count = 100'003;
    const Buffer numbers = memory(4 * count), halves = memory(2 * count), gathered = memory(2 * count * world.size());
    const View sums(numbers.data(), Shape{count}, DType::f32), rounded(halves.data(), Shape{1, count}, DType::bf16);
    const View all(gathered.data(), Shape{world.size(), count}, DType::bf16);
    auto& cuda = std::get<CudaStream>(stream);
    for (int round = 1; round <= 3; ++round) {
        kernels::fill(cuda, sums, static_cast<float>(round * (world.rank() + 1)));
        communicator->all_reduce(stream, sums, Reduction::sum);
        kernels::cast(cuda, sums, View(halves.data(), Shape{count}, DType::bf16));
        kernels::fill(cuda, sums, -1.0f);
        communicator->all_gather(stream, rounded, all);
        kernels::fill(cuda, View(halves.data(), Shape{count}, DType::bf16), -1.0f);
        communicator->wait(stream);
        std::vector<BFloat16> result(static_cast<std::size_t>(all.count()));
        kernels::download(cuda, all, View(result.data(), all.shape, DType::bf16));
        const auto expected = static_cast<float>(round * world.size() * (world.size() + 1) / 2);
        for (const BFloat16 value : result)
            ASSERT_EQ(static_cast<float>(value), expected);
    }
}

TEST_F(Nccl, ManyCommunicatorsOneAfterAnother) {
    for (int round = 0; round < 20; ++round) {
        const auto communicator = connect();
        communicator->barrier(stream);
    }
}

TEST_F(NcclSubstitute, RanksOutOfStepAreNamed) {
    if (world.size() == 1) GTEST_SKIP();
    const auto communicator = connect();
    const Number number(stream);
    const auto call = [&] {
        if (world.rank() == 0)
            communicator->all_reduce(stream, number.view(DType::i32), Reduction::sum);
        else
            communicator->broadcast(stream, number.view(DType::i32), 0);
        communicator->wait(stream);
    };
    EXPECT_THAT(call, ThrowsMessage<SystemError>(
                          AllOf(HasSubstr("axis 'data', rank " + std::to_string(world.rank())),
                                HasSubstr(world.rank() == 0 ? "call 1 (all_reduce of 32 bytes)" : "broadcast"))));
    EXPECT_THAT([&] { communicator->barrier(stream); },
                ThrowsMessage<SystemError>(HasSubstr("barrier after the end of its connections")));
    std::get<CudaStream>(stream).wait(); // which is usable as before
}

TEST_F(NcclSubstitute, AMissingRankIsAnError) {
    if (world.size() == 1) GTEST_SKIP();
    setenv("TESSERA_EMULATION_NCCL_TIMEOUT", "0.3", 1);
    for (const DType dtype : {DType::i32, DType::f32}) { // which take different ways
        const auto communicator = connect();
        const Number number(stream);
        const auto call = [&] {
            communicator->all_reduce(stream, number.view(dtype), Reduction::sum);
            communicator->wait(stream);
        };
        if (world.rank() != 0) {
            EXPECT_THAT(call, ThrowsMessage<SystemError>(AllOf(HasSubstr("axis 'data'"), HasSubstr("all_reduce of 32"),
                                                               HasSubstr("waits in vain"))));
        }
        world.group().barrier();
    }
    unsetenv("TESSERA_EMULATION_NCCL_TIMEOUT");
}

TEST_F(Nccl, PatienceHasAnEnd) {
    if (world.size() == 1 || !asynchronous()) GTEST_SKIP() << "only where streams run beside the host";
    const auto communicator = connect();
    const Number number(stream);
    communicator->barrier(stream);
    const auto call = [&] {
        communicator->broadcast(stream, number.view(DType::i32), 0);
        communicator->tree_reduce(stream, number.view(DType::f32), SummationTree(8, world.size()));
        communicator->wait(stream, Seconds(0.3));
    };
    if (world.rank() != 0) {
        EXPECT_THAT(call, ThrowsMessage<SystemError>(AllOf(HasSubstr("has not ended within 0.3 s"),
                                                           HasSubstr("axis 'data', rank"),
                                                           HasSubstr("calls 2 (broadcast of 32 bytes) to 3 (tree_"))));
    }
    world.group().barrier();
}

// Where a wait would never end, as the ranks' calls do not meet.
TEST_F(Nccl, AnExceptionEndsTheCommunicatorsAtOnce) {
    if (world.size() == 1 || !asynchronous()) GTEST_SKIP() << "only where streams run beside the host";
    const auto body = [&] {
        const Number number(stream); // freed last: that waits for all kernels
        const auto communicator = connect();
        if (world.rank() == 0) throw ConfigError("rank 0 has had enough");
        communicator->all_reduce(stream, number.view(DType::f32), Reduction::sum);
        throw ConfigError("the others, too");
    };
    EXPECT_THROW(body(), ConfigError);
    world.group().barrier();
}

TEST_F(Nccl, RefusesHostStreams) {
    const auto communicator = connect();
    Stream host = CpuStream(1);
    std::vector<float> memory(8);
    const View view(memory.data(), Shape{8}, DType::f32);
    const auto refuses = ThrowsMessage<InternalError>(HasSubstr("CPU's stream"));
    EXPECT_THAT([&] { communicator->all_reduce(host, view, Reduction::sum); }, refuses);
    EXPECT_THAT([&] { communicator->broadcast(host, view, 0); }, refuses);
    EXPECT_THAT([&] { communicator->barrier(host); }, refuses);
}

TEST_F(Nccl, CpuRanksRefuseGpuStreams) {
    const auto refuses = ThrowsMessage<InternalError>(HasSubstr("the stream of a GPU"));
    const Number number(stream);
    const View view = number.view(DType::f32);
    for (const bool shared : {false, true}) {
        const auto communicator =
            shared ? make_shared_memory_communicator(everyone()) : make_mpi_communicator(everyone());
        const View part(view.memory(), Shape{8}, DType::f32);
        const View whole(view.memory(), Shape{8 * world.size()}, DType::f32);
        EXPECT_THAT([&] { communicator->all_reduce(stream, view, Reduction::sum); }, refuses);
        EXPECT_THAT([&] { communicator->tree_reduce(stream, view, SummationTree(8, world.size())); }, refuses);
        EXPECT_THAT([&] { communicator->all_gather(stream, part, whole); }, refuses);
        EXPECT_THAT([&] { communicator->reduce_scatter(stream, whole, part); }, refuses);
        EXPECT_THAT([&] { communicator->all_to_all(stream, whole, whole); }, refuses);
        EXPECT_THAT([&] { communicator->broadcast(stream, view, 0); }, refuses);
        EXPECT_THAT([&] { communicator->send(stream, view, 0); }, refuses);
        EXPECT_THAT([&] { communicator->receive(stream, view, 0); }, refuses);
        EXPECT_THAT([&] { communicator->barrier(stream); }, refuses);
    }
}

TEST_F(Nccl, OneRankAloneWorksOnAGpu) {
    const auto communicator = make_local_communicator();
    test::check_all(arrange("alone", *communicator));
    test::check_all({"alone, allocated", *communicator,
                     [&](std::int64_t bytes) { return communicator->allocate(stream, bytes); }, stream});
}

TEST_F(Nccl, GroupsExchangeTensorsOverNcclAndDecisionsOnTheHost) {
    const Mesh mesh =
        world.size() == 4 ? Mesh({{"data", 2}, {"stage", 1}, {"tensor", 2}}) : Mesh({{"data", world.size()}});
    for (const SumOrder order : {SumOrder::tree, SumOrder::library}) {
        Groups groups(world, mesh, stream, true, order);
        Stream host = CpuStream(1);
        std::int32_t sum = 1;
        groups.all().all_reduce(host, View(&sum, Shape{1}, DType::i32), Reduction::sum);
        EXPECT_EQ(sum, world.size());
        for (int axis = 0; axis < mesh.axis_count(); ++axis) {
            Communicator& ranks = groups.axis(axis);
            ASSERT_EQ(ranks.size(), mesh.axis(axis).size);
            EXPECT_NE(&ranks, &groups.all());
            const test::Arrangement arrangement{
                "groups", ranks, [&](std::int64_t bytes) { return ranks.allocate(stream, bytes); }, stream};
            test::check_all_gather_of<float>(arrangement, 1000, false);
            test::check_tree_reduce_of(arrangement, 1000, 8);
        }
        groups.wait(stream);
    }
}

TEST_F(NcclSubstitute, GroupsNameTheAxisWhereRanksAreOutOfStep) {
    if (world.size() == 1) GTEST_SKIP();
    Groups groups(world, Mesh({{"expert", 1}, {"tensor", world.size()}}), stream, false);
    const Number number(stream);
    const auto call = [&] {
        groups.axis(1).all_reduce(stream, number.view(DType::i32), world.rank() == 0 ? Reduction::sum : Reduction::max);
        groups.wait(stream);
    };
    EXPECT_THAT(call, ThrowsMessage<SystemError>(AllOf(HasSubstr("axis 'tensor'"), HasSubstr("all_reduce"))));
}

TEST_F(Nccl, TwoRanksOnOneGpuAreNamed) {
    int version = 0;
    ncclGetVersion(&version);
    if (world.size() == 1 || version == 0) GTEST_SKIP() << "the substitute for one real GPU lets them share it";
    const Stream first = CudaStream(0);
    EXPECT_THAT(
        [&] {
            Groups(world, Mesh({{"data", world.size()}}), first, true);
        },
        ThrowsMessage<ConfigError>(AllOf(HasSubstr("ranks 0 and 1 on " + world.host() + " both use GPU 0"),
                                         HasSubstr("NCCL needs one GPU per rank"))));
}

TEST_F(Nccl, CpusAndGpusDoNotMix) {
    if (world.size() == 1) GTEST_SKIP();
    const Stream host = CpuStream(1);
    EXPECT_THAT(
        [&] {
            Groups(world, Mesh({{"data", world.size()}}), world.rank() == 0 ? host : stream, true);
        },
        ThrowsMessage<ConfigError>(HasSubstr(world.rank() == 0 ? "computes on a CPU" : "computes on a GPU")));
}
