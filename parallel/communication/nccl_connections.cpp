// SPDX-License-Identifier: Apache-2.0
// Starts and ends NCCL's communicators, and turns its silence into sentences.
#include "parallel/communication/nccl_connections.hpp"

#include "kernels/cuda/device.hpp"
#include "parallel/communication/lost_error.hpp"

#include <exception>
#include <fmt/format.h>
#include <thread>

namespace tessera {
namespace {

constexpr Seconds between_looks{1e-3}, impatient_for{10e-3}, nap{20e-6};

std::string text_of(ncclResult_t result, ncclComm_t communicator) {
    const char* detail = ncclGetLastError(communicator);
    std::string text = fmt::format("NCCL: {}", ncclGetErrorString(result));
    if (detail != nullptr && *detail != '\0') text += fmt::format(" ({})", detail);
    return text;
}

} // namespace

NcclConnections::NcclConnections(const CudaStream& stream)
    : device_(stream.device()), exceptions_at_start_(std::uncaught_exceptions()) {}

NcclConnections::~NcclConnections() {
    abort_while_unwinding();
    for (const Connection& connection : connections_) {
        if (connection.communicator == nullptr) continue;
        ncclCommFinalize(connection.communicator); // an error has nobody to tell it to
        ncclCommDestroy(connection.communicator);
    }
}

std::size_t NcclConnections::connect(const std::string& axis, const ProcessGroup& group) {
    Connection& connection = connections_.emplace_back(Connection{axis, group.rank(), group.size(), nullptr, {}, {}});
    const auto checked = [&](ncclResult_t result) {
        if (result != ncclSuccess)
            fail(fmt::format("{} cannot be connected: {}", place(connection), text_of(result, nullptr)));
    };
    ncclUniqueId id{};
    if (group.rank() == 0) checked(ncclGetUniqueId(&id));
    group.broadcast(&id, sizeof id, 0);
    cuda::check(cudaSetDevice(device_), "cudaSetDevice");
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    checked(ncclCommInitRankConfig(&connection.communicator, group.size(), id, group.rank(), &config));
    return connections_.size() - 1;
}

ncclComm_t NcclConnections::begin(std::size_t number, const char* call, std::int64_t bytes) {
    Connection& connection = connections_.at(number);
    if (connection.communicator == nullptr)
        throw LostError(fmt::format("{}: {} after the end of its connections: {}", place(connection), call,
                                    failure_.empty() ? "an exception passed" : failure_));
    connection.last = {connection.last.number + 1, call, bytes};
    if (connection.first_open.number == 0) connection.first_open = connection.last;
    return connection.communicator;
}

void NcclConnections::check(std::size_t number, ncclResult_t result) {
    if (result == ncclSuccess) return;
    const Connection& connection = connections_.at(number);
    fail(
        fmt::format("{}, {}: {}", place(connection), open_calls(connection), text_of(result, connection.communicator)));
}

void NcclConnections::wait(const CudaStream& stream, Seconds patience) {
    const auto start = std::chrono::steady_clock::now();
    Seconds next_look = between_looks;
    for (;;) {
        const cudaError_t state = cudaStreamQuery(stream.state().stream);
        if (state != cudaErrorNotReady) {
            look_for_errors(); // of which an error of the stream may be the consequence
            if (state != cudaSuccess) abort();
            break;
        }
        cudaGetLastError(); // where "not ready" is kept like an error
        const Seconds waited = std::chrono::steady_clock::now() - start;
        if (waited >= next_look) {
            look_for_errors();
            next_look = waited + between_looks;
        }
        if (waited >= patience) {
            std::string open;
            for (const Connection& connection : connections_)
                if (connection.first_open.number > 0)
                    open += fmt::format("; {}: {}", place(connection), open_calls(connection));
            fail(fmt::format("the GPU's work has not ended within {:g} s: another rank has not made these calls, or is "
                             "gone{}",
                             patience.count(), open));
        }
        // Who has waited long can wait some microseconds more, and lets others have the core.
        waited < impatient_for ? std::this_thread::yield() : std::this_thread::sleep_for(nap);
    }
    stream.wait();
    for (Connection& connection : connections_)
        connection.first_open = {};
}

void NcclConnections::look_for_errors() {
    for (const Connection& connection : connections_) {
        if (connection.communicator == nullptr) continue;
        ncclResult_t state = ncclSuccess;
        const ncclResult_t asked = ncclCommGetAsyncError(connection.communicator, &state);
        if (asked != ncclSuccess) state = asked;
        if (state != ncclSuccess && state != ncclInProgress)
            fail(fmt::format("{}, {}: {}", place(connection), open_calls(connection),
                             text_of(state, connection.communicator)));
    }
}

void NcclConnections::abort_while_unwinding() {
    if (std::uncaught_exceptions() > exceptions_at_start_) abort();
}

// In one group, as each abort may wait for the kernels of all.
void NcclConnections::abort() {
    ncclGroupStart();
    for (Connection& connection : connections_) {
        if (connection.communicator != nullptr) ncclCommAbort(connection.communicator);
        connection.communicator = nullptr;
    }
    ncclGroupEnd();
}

void NcclConnections::fail(const std::string& why) {
    failure_ = why;
    abort();
    throw LostError(why);
}

std::string NcclConnections::place(const Connection& connection) {
    return fmt::format("axis '{}', rank {} of {}", connection.axis, connection.rank, connection.size);
}

std::string NcclConnections::open_calls(const Connection& connection) {
    const auto text = [](const Call& call) {
        return fmt::format("{} ({} of {} bytes)", call.number, call.name, call.bytes);
    };
    const Call &first = connection.first_open, &last = connection.last;
    if (first.number == 0) return "no call under way";
    if (first.number == last.number) return fmt::format("call {}", text(last));
    return fmt::format("calls {} to {}", text(first), text(last));
}

} // namespace tessera
