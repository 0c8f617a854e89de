// SPDX-License-Identifier: Apache-2.0
// A link-time substitute of the parts of NCCL that the house uses, over MPI. Stricter than NCCL: ranks whose
// collectives differ, or of which one is missing for TESSERA_EMULATION_NCCL_TIMEOUT seconds (60), get an asynchronous
// error. As over NCCL, the stream then stays busy until the communicator is aborted, where another thread than the
// caller's works for it.
#include "tests/cuda_emulation/nccl_communicator.hpp"
#include "tests/cuda_emulation/nccl_device.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <memory>

using namespace nccl_substitute;
using nccl_device::Input;
using nccl_device::Output;

namespace {

thread_local std::string last_error;

ncclResult_t refuse(const std::string& why) {
    last_error = why;
    return ncclInvalidArgument;
}

std::size_t bytes_of(ncclDataType_t type) {
    return type == ncclInt8 ? 1 : type == ncclBfloat16 || type == ncclFloat16 ? 2 : 4;
}

int mpi_count(std::size_t bytes) {
    if (bytes > INT32_MAX) throw std::runtime_error("more than 2^31 - 1 bytes in a collective: too many here");
    return static_cast<int>(bytes);
}

// ---- Reductions, from the last rank to the first: not the order of the house's tree, which nobody may rely on here.

template <class T> T combine(T a, T b, ncclRedOp_t operation) {
    if (operation == ncclMax) return a < b ? b : a; // loses a NaN, as NCCL may
    if (operation == ncclMin) return b < a ? b : a;
    if constexpr (std::is_integral_v<T>)
        return static_cast<T>(static_cast<std::uint32_t>(a) + static_cast<std::uint32_t>(b));
    else if constexpr (std::is_same_v<T, __nv_bfloat16>)
        return __float2bfloat16(__bfloat162float(a) + __bfloat162float(b)); // rounded every time
    else if constexpr (std::is_same_v<T, __half>)
        return __float2half(__half2float(a) + __half2float(b));
    else
        return a + b;
}

template <class T>
void reduce(const std::byte* gathered, std::size_t count, int ranks, ncclRedOp_t operation, std::byte* to) {
    const T* from = reinterpret_cast<const T*>(gathered);
    T* result = reinterpret_cast<T*>(to);
    for (std::size_t i = 0; i < count; ++i) {
        T sum = from[static_cast<std::size_t>(ranks - 1) * count + i];
        for (int rank = ranks - 2; rank >= 0; --rank)
            sum = combine(sum, from[static_cast<std::size_t>(rank) * count + i], operation);
        result[i] = sum;
    }
}

void reduce(const std::vector<std::byte>& gathered, std::size_t count, ncclDataType_t type, int ranks,
            ncclRedOp_t operation, std::byte* to) {
    if (type == ncclFloat32)
        reduce<float>(gathered.data(), count, ranks, operation, to);
    else if (type == ncclBfloat16)
        reduce<__nv_bfloat16>(gathered.data(), count, ranks, operation, to);
    else if (type == ncclFloat16)
        reduce<__half>(gathered.data(), count, ranks, operation, to);
    else if (type == ncclInt32)
        reduce<std::int32_t>(gathered.data(), count, ranks, operation, to);
    else
        throw std::runtime_error("a reduction of type " + std::to_string(type) + ": unknown here");
}

// ---- Messages

struct Message {
    ncclComm* comm;
    cudaStream_t stream;
    bool is_send;
    int peer;
    std::byte* device;
    std::size_t bytes;
};

thread_local int group_depth = 0;
thread_local std::vector<Message> group_messages;
thread_local std::vector<ncclComm*> group_aborts;

// All at once, in pieces that an int can count.
void exchange(const std::vector<Message>& messages) {
    constexpr std::size_t largest = std::size_t{1} << 30;
    struct Rooms {
        std::vector<Input> inputs;
        std::vector<Output> outputs;
    };
    auto rooms = std::make_unique<Rooms>();
    std::vector<MPI_Request> requests;
    std::vector<int> expected; // bytes of each request that receives, otherwise -1
    ncclComm& comm = *messages.front().comm;
    for (const Message& message : messages) {
        std::byte* data = nullptr;
        if (message.is_send)
            data = const_cast<std::byte*>(rooms->inputs.emplace_back(message.device, message.bytes).data());
        else
            data = rooms->outputs.emplace_back(message.device, message.bytes).data();
        for (std::size_t at = 0; at < message.bytes; at += largest) {
            const int count = static_cast<int>(std::min(largest, message.bytes - at));
            MPI_Request& request = requests.emplace_back(MPI_REQUEST_NULL);
            expected.push_back(message.is_send ? -1 : count);
            check(message.is_send ? MPI_Isend(data + at, count, MPI_BYTE, message.peer, 0, comm.group, &request)
                                  : MPI_Irecv(data + at, count, MPI_BYTE, message.peer, 0, comm.group, &request),
                  message.is_send ? "ncclSend" : "ncclRecv");
        }
    }
    std::vector<MPI_Status> statuses;
    try {
        complete(comm, requests, statuses, "ncclSend and ncclRecv");
    } catch (...) {
        rooms.release(); // MPI may still read and write there
        throw;
    }
    for (std::size_t i = 0; i < expected.size(); ++i) {
        int count = 0;
        if (expected[i] >= 0) MPI_Get_count(&statuses[i], MPI_BYTE, &count);
        if (expected[i] >= 0 && count != expected[i])
            throw std::runtime_error("ncclRecv of " + std::to_string(expected[i]) + " bytes met a send of " +
                                     std::to_string(count));
    }
    for (Output& output : rooms->outputs)
        output.finish();
}

ncclResult_t post(const Message& message) {
    if (message.comm == nullptr || message.peer < 0 || message.peer >= message.comm->size)
        return refuse("a message to rank " + std::to_string(message.peer) + ", which is not there");
    if (group_depth > 0) {
        group_messages.push_back(message);
        return ncclSuccess;
    }
    return submit(message.comm, message.stream, [message] { exchange({message}); });
}

// ---- Beginning and end

struct Identity {
    int creator; // in the world
    int serial;
};

// The creator of the identity learns who has which rank, and tells all.
std::vector<int> gather_members(const Identity& identity, int size, int rank, int tag) {
    std::vector<int> members(static_cast<std::size_t>(size), -1);
    int self = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &self);
    if (self != identity.creator) {
        MPI_Send(&rank, 1, MPI_INT, identity.creator, tag, MPI_COMM_WORLD);
        MPI_Recv(members.data(), size, MPI_INT, identity.creator, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        return members;
    }
    members[static_cast<std::size_t>(rank)] = self;
    for (int i = 1; i < size; ++i) {
        int other = 0;
        MPI_Status status;
        MPI_Recv(&other, 1, MPI_INT, MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, &status);
        members.at(static_cast<std::size_t>(other)) = status.MPI_SOURCE;
    }
    for (const int member : members)
        if (member != self) MPI_Send(members.data(), size, MPI_INT, member, tag, MPI_COMM_WORLD);
    return members;
}

void end_aborted() {
    nccl_device::wait_for_all();
    for (const ncclComm* comm : group_aborts)
        delete comm; // its MPI communicator stays: freeing it is for all ranks together
    group_aborts.clear();
}

} // namespace

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
    *version = nccl_device::version();
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
    static std::atomic<int> serial = 0;
    Identity identity{0, ++serial};
    MPI_Comm_rank(MPI_COMM_WORLD, &identity.creator);
    std::memcpy(id, &identity, sizeof identity);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* made, int size, ncclUniqueId id, int rank, ncclConfig_t*) {
    if (rank < 0 || rank >= size) return refuse("ncclCommInitRankConfig: no such rank");
    nccl_device::wait_for_all();
    Identity identity;
    std::memcpy(&identity, &id, sizeof identity);
    const int tag = 1000 + identity.serial % 16000;
    const std::vector<int> members = gather_members(identity, size, rank, tag);
    auto comm = std::make_unique<ncclComm>();
    MPI_Group everyone = MPI_GROUP_NULL, group = MPI_GROUP_NULL;
    MPI_Comm_group(MPI_COMM_WORLD, &everyone);
    MPI_Group_incl(everyone, size, members.data(), &group);
    MPI_Comm_create_group(MPI_COMM_WORLD, group, tag, &comm->group);
    MPI_Group_free(&group);
    MPI_Group_free(&everyone);
    MPI_Comm_set_errhandler(comm->group, MPI_ERRORS_RETURN);
    comm->rank = rank;
    comm->size = size;
    if (const char* timeout = std::getenv("TESSERA_EMULATION_NCCL_TIMEOUT")) comm->patience = std::atof(timeout);
    *made = comm.release();
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t) {
    nccl_device::wait_for_all();
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    nccl_device::wait_for_all();
    MPI_Comm_free(&comm->group);
    delete comm;
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
    comm->aborted = true;
    group_aborts.push_back(comm);
    if (group_depth == 0) end_aborted();
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
    *state = comm->error().empty() ? ncclSuccess : ncclRemoteError;
    return ncclSuccess;
}

const char* ncclGetLastError(ncclComm_t comm) {
    return comm != nullptr && !comm->error().empty() ? comm->error().c_str() : last_error.c_str();
}

const char* ncclGetErrorString(ncclResult_t result) {
    return result == ncclInvalidArgument ? "invalid argument" : result == ncclRemoteError ? "remote error" : "error";
}

ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t operation,
                           ncclComm_t comm, cudaStream_t stream) {
    return submit(comm, stream, [=] {
        agree(*comm, "ncclAllReduce", count, type, operation);
        const std::size_t bytes = count * bytes_of(type);
        const Input input(from, bytes);
        std::vector<std::byte> gathered(bytes * static_cast<std::size_t>(comm->size));
        check(MPI_Allgather(input.data(), mpi_count(bytes), MPI_BYTE, gathered.data(), mpi_count(bytes), MPI_BYTE,
                            comm->group),
              "ncclAllReduce");
        Output output(to, bytes);
        reduce(gathered, count, type, comm->size, operation, output.data());
        output.finish();
    });
}

ncclResult_t ncclReduceScatter(const void* from, void* to, std::size_t count, ncclDataType_t type,
                               ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
    return submit(comm, stream, [=] {
        agree(*comm, "ncclReduceScatter", count, type, operation);
        const std::size_t bytes = count * bytes_of(type);
        const Input input(from, bytes * static_cast<std::size_t>(comm->size));
        std::vector<std::byte> gathered(bytes * static_cast<std::size_t>(comm->size));
        check(MPI_Alltoall(input.data(), mpi_count(bytes), MPI_BYTE, gathered.data(), mpi_count(bytes), MPI_BYTE,
                           comm->group),
              "ncclReduceScatter");
        Output output(to, bytes);
        reduce(gathered, count, type, comm->size, operation, output.data());
        output.finish();
    });
}

ncclResult_t ncclAllGather(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
    return submit(comm, stream, [=] {
        agree(*comm, "ncclAllGather", count, type);
        const std::size_t bytes = count * bytes_of(type);
        const Input input(from, bytes);
        Output output(to, bytes * static_cast<std::size_t>(comm->size));
        const bool in_place = input.data() == output.data() + bytes * static_cast<std::size_t>(comm->rank);
        check(MPI_Allgather(in_place ? MPI_IN_PLACE : input.data(), mpi_count(bytes), MPI_BYTE, output.data(),
                            mpi_count(bytes), MPI_BYTE, comm->group),
              "ncclAllGather");
        output.finish();
    });
}

ncclResult_t ncclBroadcast(const void* from, void* to, std::size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
    return submit(comm, stream, [=] {
        agree(*comm, "ncclBroadcast", count, type, 0, root);
        const std::size_t bytes = count * bytes_of(type);
        Output output(to, bytes);
        if (comm->rank == root) std::memmove(output.data(), Input(from, bytes).data(), bytes);
        check(MPI_Bcast(output.data(), mpi_count(bytes), MPI_BYTE, root, comm->group), "ncclBroadcast");
        output.finish();
    });
}

ncclResult_t ncclSend(const void* from, std::size_t count, ncclDataType_t type, int to, ncclComm_t comm,
                      cudaStream_t stream) {
    return post({comm, stream, true, to, static_cast<std::byte*>(const_cast<void*>(from)), count * bytes_of(type)});
}

ncclResult_t ncclRecv(void* to, std::size_t count, ncclDataType_t type, int from, ncclComm_t comm,
                      cudaStream_t stream) {
    return post({comm, stream, false, from, static_cast<std::byte*>(to), count * bytes_of(type)});
}

ncclResult_t ncclGroupStart() {
    ++group_depth;
    return ncclSuccess;
}

// The messages of one communicator on one stream run as one piece of work.
ncclResult_t ncclGroupEnd() {
    if (group_depth == 0) return ncclInvalidUsage;
    if (--group_depth > 0) return ncclSuccess;
    ncclResult_t result = ncclSuccess;
    while (!group_messages.empty()) {
        const ncclComm* comm = group_messages.front().comm;
        const cudaStream_t stream = group_messages.front().stream;
        const auto rest = std::stable_partition(group_messages.begin(), group_messages.end(),
                                                [&](const Message& m) { return m.comm == comm && m.stream == stream; });
        std::vector<Message> together(group_messages.begin(), rest);
        group_messages.erase(group_messages.begin(), rest);
        const ncclResult_t submitted = submit(together.front().comm, stream, [together] { exchange(together); });
        if (submitted != ncclSuccess) result = submitted;
    }
    if (!group_aborts.empty()) end_aborted();
    return result;
}
}
