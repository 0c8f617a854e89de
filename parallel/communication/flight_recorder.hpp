// SPDX-License-Identifier: Apache-2.0
// What a rank is doing and which collectives it entered last, in memory that the other ranks of its host can read, also
// when it has been stopped or killed.
#pragma once

#include "kernels/tensor.hpp"
#include "parallel/layout/redistribute.hpp"

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tessera {

class ProcessGroup;
class SharedRegion;

// Calls of a communicator. Those from `send` on are between two ranks; the other ranks of the axis have no part in
// them.
enum class CallKind : std::uint8_t {
    all_reduce,
    tree_reduce,
    all_gather,
    reduce_scatter,
    all_to_all,
    all_to_allv,
    broadcast,
    shift,
    barrier,
    allocate,
    send,
    receive
};
std::string_view name_of(CallKind kind);

// `queued`: handed to a GPU's queue, which nobody here sees the end of.
enum class CallState : std::uint8_t { begun, ended, queued };

// What a rank is at. Each has a deadline of its own (core/watch/watchdog.hpp).
enum class Activity : std::uint8_t { starting, training, evaluating, saving, auditing, finishing };
std::string_view name_of(Activity activity);

// What it does within that.
enum class Doing : std::uint8_t { nothing_told, reading_data, computing, waiting_for_gpu };

// One call, as others read it. Times are of CLOCK_MONOTONIC of the host, in nanoseconds.
struct CallRecord {
    std::int64_t number = 0; // among the calls of its axis that all its ranks take part in, from 1; messages: as last
    int axis = 0;            // place in FlightPage's list of axes
    CallKind kind = CallKind::barrier;
    CallState state = CallState::begun;
    DType dtype = DType::f32;
    int peer = -1; // of a message, or the root of a broadcast: rank within the axis
    std::int64_t bytes = 0;
    std::int64_t begun = 0, ended = 0;
    std::string name; // of the layer's or tensor's exchange, as far as it is known
};

// What a rank is at, as others read it.
struct FlightState {
    Activity activity = Activity::starting;
    Doing doing = Doing::nothing_told;
    std::int64_t step = -1;        // from 0; -1: none yet
    std::int64_t micro_batch = -1; // of this rank's share; -1: none
    std::int64_t expected = 0;     // micro-batches of the activity; 0: none or unknown
    std::int64_t activity_begun = 0, doing_begun = 0, step_begun = 0;
    bool in_step = false;
    std::int64_t calls = 0;        // entered in all
    std::int64_t steps_timed = 0;  // so many in step_times()
    std::int64_t longest_save = 0; // nanoseconds, of whole saves, also of what was written beside training
    std::string work;              // the node or exchange under way
};

std::int64_t monotonic_now(); // nanoseconds

// The memory itself: words that one thread writes and any process reads without a lock. A rank's own page, or that of
// a neighbour on its host.
class FlightPage;

// Reads a page that another thread or process may be writing. What changes under the reader's eyes is read again.
class FlightView {
public:
    explicit FlightView(const FlightPage* page) : page_(page) {}
    FlightState state() const;
    std::vector<CallRecord> calls(std::size_t most) const; // the last ones, the newest first
    std::vector<std::int64_t> step_times() const;          // nanoseconds, of at most the last 64 steps

private:
    const FlightPage* page_;
};

// One thread of the rank writes: the one that trains. Every call is a few stores, without a lock, a system call or an
// allocation. A step that a GPU replays (run.cuda_graph) is recorded as such: the collectives inside are not called by
// the host, and so not seen, each by itself, after the first two steps.
class FlightRecorder {
public:
    static constexpr std::size_t call_slots = 256, name_bytes = 64, time_slots = 64;

    // Of ranks that nobody watches: memory of its own.
    FlightRecorder();
    // Collective over the ranks of one host. The memory has no name: it lives as long as one of its ranks does, is
    // readable by those that are left when others were killed, and leaves nothing behind.
    explicit FlightRecorder(const ProcessGroup& host);
    ~FlightRecorder();
    FlightRecorder(const FlightRecorder&) = delete;
    FlightRecorder& operator=(const FlightRecorder&) = delete;

    FlightView own() const;
    FlightView of_neighbour(int local_rank) const; // by rank in `host`

    // What to do at a point on purpose (core/watch/planted_stall.hpp). Called when an activity, a reading or a node's
    // computation begins. Returns whether the next collective is to be left out.
    class Fault {
    public:
        virtual ~Fault() = default;
        virtual bool at(Activity activity, Doing doing, std::int64_t step) = 0;
    };
    void plant(std::unique_ptr<Fault> fault);
    bool skips_next() { return std::exchange(skips_, false); }

    // Hears of all that the recorder is told, with the time of it (monotonic_now), on the thread that trains.
    class Listener {
    public:
        virtual ~Listener() = default;
        virtual void at(Activity activity, Doing doing, std::string_view work, std::int64_t now) = 0; // from now on
        virtual void called(int axis, CallKind kind, std::int64_t bytes, std::int64_t begun, std::int64_t ended) = 0;
    };
    void add(Listener& listener);
    void remove(const Listener& listener);

    // A scope in which the rank is at something else than before, for so many micro-batches; 0: none or unknown.
    class Scope {
    public:
        Scope(FlightRecorder& recorder, Activity activity, std::int64_t micro_batches = 0);
        ~Scope();
        Scope(const Scope&) = delete;
        Scope& operator=(const Scope&) = delete;

    private:
        FlightRecorder& recorder_;
        FlightState before_;
        std::int64_t begun_;
    };
    // One step of training, from 0. Its time is kept when it ends without an exception.
    class StepScope {
    public:
        StepScope(FlightRecorder& recorder, std::int64_t step);
        ~StepScope();
        StepScope(const StepScope&) = delete;
        StepScope& operator=(const StepScope&) = delete;

    private:
        FlightRecorder& recorder_;
        int exceptions_;
    };

    void begin(Activity activity, std::int64_t micro_batches = 0);
    void begin_micro_batch(std::int64_t micro_batch);
    void reads_data();
    void computes(std::string_view work); // a node, or what is about to be exchanged
    void waits_for_gpu();
    void is_idle();
    void saved_in(std::int64_t nanoseconds); // from the begin of a save to its end, on all ranks

    // From now on, or until it is called with false, nothing of nodes, calls, steps and activities is written down:
    // what that takes is measured against it.
    void pause(bool paused = true) { paused_ = paused; }

    // Returns where the call stands, for ended(): nowhere while paused.
    std::size_t began(int axis, CallKind kind, DType dtype, std::int64_t bytes, int peer);
    void ended(std::size_t call, CallState state);

private:
    void does(Doing doing, std::string_view work);
    void end_step(bool keep);

    std::unique_ptr<SharedRegion> region_;
    std::unique_ptr<FlightPage> own_page_; // where there is no region
    FlightPage* page_;
    std::array<std::int64_t, 16> numbers_{}; // of the last collective, by axis
    std::unique_ptr<Fault> fault_;
    bool skips_ = false, paused_ = false;
    std::vector<Listener*> listeners_;
};

} // namespace tessera
