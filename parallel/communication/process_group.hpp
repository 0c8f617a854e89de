// SPDX-License-Identifier: Apache-2.0
// A group of MPI processes, as the owner of one MPI communicator. Bytes only: tensors are the communicators' business.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace tessera {

// Bytes for, or from, another rank.
struct Message {
    void* data;
    std::int64_t bytes;
    int peer;
};

// All calls but rank() and size() are collective, and throw LostError with MPI's own text, the call, the bytes and
// the rank. Move-only; counts above an int are sent in pieces.
class ProcessGroup {
public:
    static ProcessGroup world(); // a duplicate of MPI_COMM_WORLD
    ProcessGroup(ProcessGroup&&) noexcept;
    ProcessGroup& operator=(ProcessGroup&&) noexcept;
    ~ProcessGroup();

    int rank() const { return rank_; }
    int size() const { return size_; }
    ProcessGroup split(int color, int key) const; // the ranks of equal color, ordered by key
    ProcessGroup on_this_host() const;            // the ranks that can share memory with this one

    // Sends and receives everything at once and waits for all of it. Between two ranks messages keep their order.
    void exchange(std::span<const Message> sends, std::span<const Message> receives) const;
    // The same without waiting, for finish(). All that is begun so between two ranks keeps its order.
    std::int64_t begin_exchange(std::span<const Message> sends, std::span<const Message> receives) const;
    // Communicator::post and expect. Channels count from 0.
    std::int64_t post(const Message& send, int channel) const;
    std::int64_t expect(const Message& receive, int channel) const;
    void finish(std::int64_t ticket) const;
    void progress() const; // lets MPI work on what is begun: who waits for another rank without MPI calls it
    void broadcast(void* data, std::int64_t bytes, int root) const;
    void barrier() const;
    bool all(bool verdict) const; // true when it is true on every rank
    std::int64_t largest(std::int64_t value) const;

    [[noreturn]] void abort(int code) const;

private:
    int tag_of(int channel) const;
    struct State;
    explicit ProcessGroup(std::unique_ptr<State> state);
    template <class Begin>
    void begin(std::int64_t ticket, const Message& message, const char* call, const Begin& begin) const;
    void begin_send(std::int64_t ticket, const Message& send, int tag) const;
    void begin_receive(std::int64_t ticket, const Message& receive, int tag) const;

    std::unique_ptr<State> state_;
    int rank_ = 0;
    int size_ = 1;
};

} // namespace tessera
