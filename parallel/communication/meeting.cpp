// SPDX-License-Identifier: Apache-2.0
// Flags in shared memory: a barrier of two ranks on two cores takes 0.6 µs, MPI_Barrier 1.5 µs or more.
#include "parallel/communication/meeting.hpp"

#include "kernels/error.hpp"
#include "parallel/communication/lost_error.hpp"

#include <ctime>
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

namespace tessera {
namespace {

constexpr int patient_spins = 50; // about 1 µs: longer only burns the core where ranks share it

// Who yields without end to somebody who is not there is not what schedulers are made for: Linux 6.18 lets others wait
// for minutes then, kernel threads too. Who has waited so long can wait some microseconds more.
constexpr int patient_yields = 200; // some 100 µs
constexpr timespec nap{0, 20'000};

void pause_briefly() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

std::string_view name_of(CollectiveCall call) {
    constexpr std::string_view names[] = {"all_reduce",  "tree_reduce", "all_gather", "reduce_scatter", "all_to_all",
                                          "all_to_allv", "broadcast",   "shift",      "barrier",        "allocate"};
    return names[static_cast<std::size_t>(call)];
}

} // namespace

Meeting::Meeting(int rank, std::vector<Post*> posts, const std::atomic<bool>* failed)
    : rank_(rank), posts_(std::move(posts)), failed_(failed) {
    // Where ranks outnumber cores, who waits only keeps the awaited one from running.
    const bool crowded = static_cast<long>(posts_.size()) > sysconf(_SC_NPROCESSORS_ONLN);
    spins_ = crowded ? 0 : patient_spins;
}

template <class Condition> void Meeting::wait(const Condition& condition) const {
    for (int spin = 0; spin < spins_; ++spin) {
        if (condition()) return;
        pause_briefly();
    }
    for (int yields = 0; !condition(); ++yields) {
        if (failed_ != nullptr && failed_->load(std::memory_order_relaxed))
            throw LostError("another rank of this process failed");
        if (meanwhile_) meanwhile_();
        yields < patient_yields ? sched_yield() : nanosleep(&nap, nullptr);
    }
}

void Meeting::barrier() {
    Post& own = *posts_[static_cast<std::size_t>(rank_)];
    const std::uint64_t arrivals = own.arrivals.load(std::memory_order_relaxed) + 1;
    own.arrivals.store(arrivals, std::memory_order_release);
    for (const Post* post : posts_)
        wait([&] { return post->arrivals.load(std::memory_order_acquire) >= arrivals; });
}

void Meeting::enter(const Entry& entry) {
    turn_ = 1 - turn_;
    posts_[static_cast<std::size_t>(rank_)]->entries[turn_] = entry;
    barrier();
    for (int rank = 0; rank < static_cast<int>(posts_.size()); ++rank) {
        const Entry& other = this->entry(rank);
        if (other.call != entry.call || other.detail != entry.detail || other.bytes != entry.bytes)
            throw InternalError(
                fmt::format("ranks are out of step: rank {} is in {} of {} bytes ({}), rank {} in {} of {} "
                            "bytes ({})",
                            rank_, name_of(entry.call), entry.bytes, entry.detail, rank, name_of(other.call),
                            other.bytes, other.detail));
    }
}

void Meeting::post(int to, Location location, std::int64_t bytes) {
    Post& own = *posts_[static_cast<std::size_t>(rank_)];
    own.mail = location;
    own.mail_bytes = bytes;
    own.addressee.store(to + 1, std::memory_order_release);
    wait([&] { return own.addressee.load(std::memory_order_acquire) == 0; });
}

const Post& Meeting::await(int from) {
    const Post& post = *posts_[static_cast<std::size_t>(from)];
    wait([&] { return post.addressee.load(std::memory_order_acquire) == rank_ + 1; });
    return post;
}

void Meeting::taken(int from) { posts_[static_cast<std::size_t>(from)]->addressee.store(0, std::memory_order_release); }

} // namespace tessera
