// SPDX-License-Identifier: Apache-2.0
// The one lock of the runtime: a thread may take it again, and lets go of it altogether while it waits.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>

namespace tessera::emulation {

class Lock {
public:
    void lock() {
        if (depth_++ == 0) mutex_.lock();
    }
    void unlock() {
        if (--depth_ == 0) mutex_.unlock();
    }
    // With the lock held, whatever `done` looks at. False after `limit` without success.
    template <class Done> bool wait(const Done& done, std::chrono::seconds limit) {
        const int depth = std::exchange(depth_, 0);
        std::unique_lock<std::mutex> own(mutex_, std::adopt_lock);
        const bool result = changed_.wait_for(own, limit, done);
        own.release();
        depth_ = depth;
        return result;
    }
    void notify() { changed_.notify_all(); }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    static inline thread_local int depth_ = 0; // there is one Lock
};

} // namespace tessera::emulation
