// SPDX-License-Identifier: Apache-2.0
// Two queues for each channel, of which one is empty.
#include "parallel/communication/thread_mail.hpp"

#include "kernels/error.hpp"
#include "parallel/communication/cut.hpp"
#include "parallel/communication/lost_error.hpp"

#include <chrono>
#include <fmt/format.h>

namespace tessera {

ThreadMail::Ticket ThreadMail::meet(std::deque<Waiting>& mine, std::deque<Waiting>& theirs, const ConstView& view,
                                    bool sends) {
    const Ticket ticket = next_++;
    if (theirs.empty()) {
        mine.push_back({ticket, view});
        under_way_.insert(ticket);
        return ticket;
    }
    const Waiting other = theirs.front();
    if (other.view.bytes() != view.bytes())
        throw InternalError(fmt::format("a message of {} bytes meets one of {}", view.bytes(), other.view.bytes()));
    theirs.pop_front();
    const ConstView &from = sends ? view : other.view, &to = sends ? other.view : view;
    copy_bytes(static_cast<std::byte*>(const_cast<void*>(to.data)), bytes_at(from), view.bytes());
    under_way_.erase(other.ticket);
    moved_.notify_all();
    return ticket;
}

ThreadMail::Ticket ThreadMail::post(int from, ConstView view, int to, int channel) {
    const std::lock_guard lock(mutex_);
    Channel& queues = channels_[{from, to, channel}];
    return meet(queues.sent, queues.expected, view, true);
}

ThreadMail::Ticket ThreadMail::expect(int from, View view, int to, int channel) {
    const std::lock_guard lock(mutex_);
    Channel& queues = channels_[{from, to, channel}];
    return meet(queues.expected, queues.sent, view, false);
}

void ThreadMail::finish(Ticket ticket) {
    std::unique_lock lock(mutex_);
    while (under_way_.contains(ticket)) {
        if (failed_) throw LostError("another rank of this process failed");
        moved_.wait_for(lock, std::chrono::milliseconds(20));
    }
}

} // namespace tessera
