// SPDX-License-Identifier: Apache-2.0
// The MPI calls of the house but for those of world.cpp, each checked.
#include "parallel/communication/process_group.hpp"

#include "kernels/error.hpp"
#include "parallel/communication/lost_error.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <fmt/format.h>
#include <mpi.h>
#include <sched.h>
#include <string_view>
#include <unistd.h>

namespace tessera {
namespace {

constexpr std::int64_t largest_message = std::int64_t{1} << 30; // MPI counts are int

// Where ranks share cores, those that wait must not keep the awaited ones from running: MPI yields without end, which
// Linux 6.18 lets others wait for (meeting.cpp). Here they sleep, once they have yielded for a while.
constexpr int patient_tests = 200; // some 100 µs
constexpr timespec nap{0, 20'000};

// On any host: decided by all ranks together (ProcessGroup::world), because MPI does not match calls that are waited
// for in these two ways.
std::atomic<bool> some_ranks_share_cores = false;

bool ranks_share_cores() { return some_ranks_share_cores; }

int ranks_share_cores_here() {
    const char* const here = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
    return here != nullptr && std::atoi(here) > ::sysconf(_SC_NPROCESSORS_ONLN) ? 1 : 0;
}

// `test` as MPI_Test: returns a code, and sets its argument to other than 0 at the end.
template <class Test> int wait_asleep(const Test& test) {
    int ended = 0;
    for (int tests = 0;; ++tests) {
        const int code = test(&ended);
        if (code != MPI_SUCCESS || ended != 0) return code;
        tests < patient_tests ? ::sched_yield() : ::nanosleep(&nap, nullptr);
    }
}

int wait_for(MPI_Request* request) {
    if (!ranks_share_cores()) return MPI_Wait(request, MPI_STATUS_IGNORE);
    return wait_asleep([&](int* ended) { return MPI_Test(request, ended, MPI_STATUS_IGNORE); });
}

int wait_for(std::vector<MPI_Request>& requests) {
    const int count = static_cast<int>(requests.size());
    if (!ranks_share_cores()) return MPI_Waitall(count, requests.data(), MPI_STATUSES_IGNORE);
    return wait_asleep([&](int* ended) { return MPI_Testall(count, requests.data(), ended, MPI_STATUSES_IGNORE); });
}

void check(int code, std::string_view call, std::int64_t bytes, int rank) {
    if (code == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    throw LostError(fmt::format("{} of {} bytes on rank {} failed: {}", call, bytes, rank, text));
}

} // namespace

// Owns the communicator. Requests are kept so that a step allocates nothing once the largest exchange was seen.
struct ProcessGroup::State {
    MPI_Comm communicator = MPI_COMM_NULL;
    std::vector<MPI_Request> requests;
    struct Begun {
        std::int64_t ticket;
        MPI_Request request;
    };
    std::vector<Begun> begun; // and not finished
    std::int64_t tickets = 0;

    explicit State(MPI_Comm owned) : communicator(owned) { MPI_Comm_set_errhandler(communicator, MPI_ERRORS_RETURN); }
    ~State() {
        // Freeing is collective: while an exception ends this rank alone, it might wait for the others for ever.
        int finalized = 0;
        MPI_Finalized(&finalized);
        if (finalized == 0 && std::uncaught_exceptions() == 0) MPI_Comm_free(&communicator);
    }
    State(const State&) = delete;
    State& operator=(const State&) = delete;
};

ProcessGroup::ProcessGroup(std::unique_ptr<State> state) : state_(std::move(state)) {
    MPI_Comm_rank(state_->communicator, &rank_);
    MPI_Comm_size(state_->communicator, &size_);
}
ProcessGroup::ProcessGroup(ProcessGroup&&) noexcept = default;
ProcessGroup& ProcessGroup::operator=(ProcessGroup&&) noexcept = default;
ProcessGroup::~ProcessGroup() = default;

ProcessGroup ProcessGroup::world() {
    MPI_Comm copy = MPI_COMM_NULL;
    check(MPI_Comm_dup(MPI_COMM_WORLD, &copy), "MPI_Comm_dup", 0, 0);
    const int here = ranks_share_cores_here();
    int anywhere = 0;
    check(MPI_Allreduce(&here, &anywhere, 1, MPI_INT, MPI_MAX, copy), "MPI_Allreduce", sizeof here, 0);
    some_ranks_share_cores = anywhere != 0;
    return ProcessGroup(std::make_unique<State>(copy));
}

ProcessGroup ProcessGroup::split(int color, int key) const {
    MPI_Comm part = MPI_COMM_NULL;
    check(MPI_Comm_split(state_->communicator, color, key, &part), "MPI_Comm_split", 0, rank_);
    return ProcessGroup(std::make_unique<State>(part));
}

ProcessGroup ProcessGroup::on_this_host() const {
    MPI_Comm part = MPI_COMM_NULL;
    check(MPI_Comm_split_type(state_->communicator, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &part),
          "MPI_Comm_split_type", 0, rank_);
    return ProcessGroup(std::make_unique<State>(part));
}

void ProcessGroup::exchange(std::span<const Message> sends, std::span<const Message> receives) const {
    auto& requests = state_->requests;
    requests.clear();
    const auto start = [&](const Message& message, bool receive) {
        auto* data = static_cast<char*>(message.data);
        for (std::int64_t at = 0; at < message.bytes; at += largest_message) {
            const int count = static_cast<int>(std::min(largest_message, message.bytes - at));
            MPI_Request request = MPI_REQUEST_NULL;
            if (receive)
                check(MPI_Irecv(data + at, count, MPI_BYTE, message.peer, 0, state_->communicator, &request),
                      "MPI_Irecv", message.bytes, rank_);
            else
                check(MPI_Isend(data + at, count, MPI_BYTE, message.peer, 0, state_->communicator, &request),
                      "MPI_Isend", message.bytes, rank_);
            requests.push_back(request);
        }
    };
    std::int64_t bytes = 0;
    for (const Message& message : receives) {
        start(message, true);
        bytes += message.bytes;
    }
    for (const Message& message : sends) {
        start(message, false);
        bytes += message.bytes;
    }
    check(wait_for(requests), "MPI_Waitall", bytes, rank_);
}

// exchange() has tag 0, and messages for finish() those from here on.
namespace {
constexpr int tag_of_exchanges = 1, tag_of_channels = 2;
}

template <class Begin>
void ProcessGroup::begin(std::int64_t ticket, const Message& message, const char* call, const Begin& begin) const {
    for (std::int64_t at = 0; at < message.bytes; at += largest_message) {
        const int count = static_cast<int>(std::min(largest_message, message.bytes - at));
        MPI_Request request = MPI_REQUEST_NULL;
        check(begin(static_cast<char*>(message.data) + at, count, &request), call, message.bytes, rank_);
        state_->begun.push_back({ticket, request});
    }
}

void ProcessGroup::begin_send(std::int64_t ticket, const Message& send, int tag) const {
    begin(ticket, send, "MPI_Isend", [&](char* data, int count, MPI_Request* request) {
        return MPI_Isend(data, count, MPI_BYTE, send.peer, tag, state_->communicator, request);
    });
}

void ProcessGroup::begin_receive(std::int64_t ticket, const Message& receive, int tag) const {
    begin(ticket, receive, "MPI_Irecv", [&](char* data, int count, MPI_Request* request) {
        return MPI_Irecv(data, count, MPI_BYTE, receive.peer, tag, state_->communicator, request);
    });
}

int ProcessGroup::tag_of(int channel) const {
    const int* most = nullptr; // at least 32,767
    int known = 0;
    MPI_Comm_get_attr(state_->communicator, MPI_TAG_UB, &most, &known);
    if (known != 0 && channel > *most - tag_of_channels)
        throw SystemError(fmt::format("this MPI has tags up to {}, too few for channel {} between the stages of a "
                                      "pipeline: take fewer chunks, or GPUs",
                                      *most, channel));
    return tag_of_channels + channel;
}

std::int64_t ProcessGroup::post(const Message& send, int channel) const {
    begin_send(state_->tickets, send, tag_of(channel));
    return state_->tickets++;
}

std::int64_t ProcessGroup::expect(const Message& receive, int channel) const {
    begin_receive(state_->tickets, receive, tag_of(channel));
    return state_->tickets++;
}

std::int64_t ProcessGroup::begin_exchange(std::span<const Message> sends, std::span<const Message> receives) const {
    for (const Message& receive : receives)
        begin_receive(state_->tickets, receive, tag_of_exchanges);
    for (const Message& send : sends)
        begin_send(state_->tickets, send, tag_of_exchanges);
    return state_->tickets++;
}

void ProcessGroup::finish(std::int64_t ticket) const {
    std::erase_if(state_->begun, [&](State::Begun& one) {
        if (one.ticket != ticket) return false;
        check(wait_for(&one.request), "MPI_Wait", 0, rank_);
        return true;
    });
}

void ProcessGroup::progress() const {
    int arrived = 0;
    check(MPI_Iprobe(MPI_ANY_SOURCE, 0, state_->communicator, &arrived, MPI_STATUS_IGNORE), "MPI_Iprobe", 0, rank_);
}

void ProcessGroup::broadcast(void* data, std::int64_t bytes, int root) const {
    auto* from = static_cast<char*>(data);
    for (std::int64_t at = 0; at < bytes; at += largest_message) {
        const int count = static_cast<int>(std::min(largest_message, bytes - at));
        if (!ranks_share_cores()) {
            check(MPI_Bcast(from + at, count, MPI_BYTE, root, state_->communicator), "MPI_Bcast", bytes, rank_);
            continue;
        }
        MPI_Request request = MPI_REQUEST_NULL;
        check(MPI_Ibcast(from + at, count, MPI_BYTE, root, state_->communicator, &request), "MPI_Ibcast", bytes, rank_);
        check(wait_for(&request), "MPI_Ibcast", bytes, rank_);
    }
}

void ProcessGroup::barrier() const {
    if (!ranks_share_cores()) return check(MPI_Barrier(state_->communicator), "MPI_Barrier", 0, rank_);
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Ibarrier(state_->communicator, &request), "MPI_Ibarrier", 0, rank_);
    check(wait_for(&request), "MPI_Ibarrier", 0, rank_);
}

bool ProcessGroup::all(bool verdict) const { return largest(verdict ? 0 : 1) == 0; }

std::int64_t ProcessGroup::largest(std::int64_t value) const {
    std::int64_t result = 0;
    if (!ranks_share_cores()) {
        check(MPI_Allreduce(&value, &result, 1, MPI_INT64_T, MPI_MAX, state_->communicator), "MPI_Allreduce", 8, rank_);
        return result;
    }
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Iallreduce(&value, &result, 1, MPI_INT64_T, MPI_MAX, state_->communicator, &request), "MPI_Iallreduce", 8,
          rank_);
    check(wait_for(&request), "MPI_Iallreduce", 8, rank_);
    return result;
}

void ProcessGroup::abort(int code) const {
    MPI_Abort(state_->communicator, code);
    std::abort(); // MPI_Abort does not return
}

} // namespace tessera
