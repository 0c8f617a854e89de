// SPDX-License-Identifier: Apache-2.0
// Messages between threads that act as ranks: whoever comes second, sender or receiver, copies.
#pragma once

#include "kernels/tensor.hpp"

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <tuple>
#include <unordered_set>

namespace tessera {

// Post and expect as Communicator has them; all ranks share one of these. Views are of this process's memory.
class ThreadMail {
public:
    using Ticket = std::int64_t;

    // `failed`: once it is set, finish() throws LostError.
    explicit ThreadMail(const std::atomic<bool>& failed) : failed_(failed) {}

    Ticket post(int from, ConstView view, int to, int channel);
    // Throws InternalError, as post() does, where sender and receiver mean different sizes.
    Ticket expect(int from, View view, int to, int channel);
    void finish(Ticket ticket);

private:
    struct Waiting {
        Ticket ticket;
        ConstView view;
    };
    struct Channel { // at most one of the two has entries
        std::deque<Waiting> sent, expected;
    };
    Ticket meet(std::deque<Waiting>& mine, std::deque<Waiting>& theirs, const ConstView& view, bool sends);

    const std::atomic<bool>& failed_;
    std::mutex mutex_;
    std::condition_variable moved_;
    std::map<std::tuple<int, int, int>, Channel> channels_; // by sender, receiver and channel
    std::unordered_set<Ticket> under_way_;
    Ticket next_ = 0;
};

} // namespace tessera
