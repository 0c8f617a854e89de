// SPDX-License-Identifier: Apache-2.0
// How ranks that share memory wait for each other and tell each other where their views lie.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

namespace tessera {

// Where a view lies, in terms that every rank can resolve: a region from allocate() and an offset into its owner's
// window.
struct Location {
    static constexpr int nowhere = -1; // private memory: has to be staged
    static constexpr int nothing = -2; // no bytes
    int region = nowhere;
    std::int64_t offset = 0;
};

enum class CollectiveCall : int {
    all_reduce,
    tree_reduce,
    all_gather,
    reduce_scatter,
    all_to_all,
    all_to_allv,
    broadcast,
    shift,
    barrier,
    allocate
};

// What a rank says when it enters a collective. Ranks that do not agree on the first three are out of step.
struct Entry {
    CollectiveCall call = CollectiveCall::barrier;
    std::int64_t detail = 0; // root, reduction, or leaves
    std::int64_t bytes = 0;  // of the whole
    Location location;
};

// One per rank, in memory that all ranks map. Zeroed memory is a valid post. Fields that different ranks write stand in
// different cache lines.
struct Post {
    alignas(64) std::atomic<std::uint64_t> arrivals; // barriers entered
    // By turns: a rank may enter the next collective while another still reads what it said on entering this one.
    alignas(64) Entry entries[2];
    // One message on its way: 0 or the receiver's rank + 1. The sender writes the rest before it sets it, and waits
    // until the receiver has taken the bytes and cleared it.
    alignas(64) std::atomic<int> addressee;
    Location mail;
    std::int64_t mail_bytes;
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

class Meeting {
public:
    // `failed` may be null; once it is set, waiting throws LostError.
    Meeting(int rank, std::vector<Post*> posts, const std::atomic<bool>* failed);

    // Called now and then while this rank waits.
    void meanwhile(std::function<void()> work) { meanwhile_ = std::move(work); }

    // Returns once all ranks have entered as often as this one. What they wrote before is visible after.
    void barrier();

    // Says what this rank does and waits for all. Throws InternalError when another rank does something else.
    void enter(const Entry& entry);
    const Entry& entry(int rank) const { return posts_[static_cast<std::size_t>(rank)]->entries[turn_]; }

    // The sender's half of a message; returns when the receiver has taken it.
    void post(int to, Location location, std::int64_t bytes);
    // The receiver's half: waits for a message from `from`; call taken() when its bytes are copied.
    const Post& await(int from);
    void taken(int from);

private:
    template <class Condition> void wait(const Condition& condition) const;

    int rank_;
    std::vector<Post*> posts_;
    const std::atomic<bool>* failed_;
    int turn_ = 0; // which entry of the posts belongs to the collective under way
    std::function<void()> meanwhile_;
    int spins_; // looks before a rank gives its core away
};

} // namespace tessera
