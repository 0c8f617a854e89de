// SPDX-License-Identifier: Apache-2.0
// Pages are arrays of relaxed atomic words under sequence counters: a writer never waits, and a reader of what changes
// meanwhile reads once more. A page that its writer left in the middle of a store, killed, is taken as it is.
#include "parallel/communication/flight_recorder.hpp"

#include "parallel/communication/process_group.hpp"
#include "parallel/communication/shared_region.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <ctime>
#include <exception>
#include <thread>

namespace tessera {
namespace {

// Of a reader, before it takes what is there; after the first it waits a little: the writer may have lost its core.
constexpr int tries = 80, tries_at_once = 64;

using Word = std::atomic<std::uint64_t>;
static_assert(Word::is_always_lock_free && sizeof(Word) == 8);

constexpr std::size_t name_words = FlightRecorder::name_bytes / sizeof(Word);

void put(Word& word, std::int64_t value) { word.store(static_cast<std::uint64_t>(value), std::memory_order_relaxed); }
std::int64_t get(const Word& word) { return static_cast<std::int64_t>(word.load(std::memory_order_relaxed)); }

struct Name {
    Word words[name_words];

    void put(std::string_view text) {
        std::uint64_t bytes[name_words] = {};
        std::memcpy(bytes, text.data(), std::min(text.size(), sizeof bytes));
        for (std::size_t i = 0; i < name_words; ++i)
            words[i].store(bytes[i], std::memory_order_relaxed);
    }
    void put(const Name& other) {
        for (std::size_t i = 0; i < name_words; ++i)
            words[i].store(other.words[i].load(std::memory_order_relaxed), std::memory_order_relaxed);
    }
    std::string get() const {
        char bytes[sizeof words];
        for (std::size_t i = 0; i < name_words; ++i) {
            const std::uint64_t word = words[i].load(std::memory_order_relaxed);
            std::memcpy(bytes + i * sizeof word, &word, sizeof word);
        }
        return {bytes, ::strnlen(bytes, sizeof bytes)};
    }
};

// Counts up by one before and one after what is written under it.
struct Sequence {
    Word count;

    void begin() {
        put(count, get(count) + 1);
        std::atomic_thread_fence(std::memory_order_release);
    }
    void end() { count.store(count.load(std::memory_order_relaxed) + 1, std::memory_order_release); }

    template <class Read> auto read(const Read& what) const {
        auto found = what();
        for (int i = 0; i < tries; ++i) {
            const std::uint64_t before = count.load(std::memory_order_acquire);
            found = what();
            std::atomic_thread_fence(std::memory_order_acquire);
            if (before % 2 == 0 && count.load(std::memory_order_relaxed) == before) break;
            if (i >= tries_at_once) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        return found;
    }
};

// What is said of a call in one word: kind, state, dtype, axis and peer.
std::int64_t packed(CallKind kind, CallState state, DType dtype, int axis, int peer) {
    return static_cast<std::int64_t>(kind) | static_cast<std::int64_t>(state) << 8 |
           static_cast<std::int64_t>(dtype) << 16 | static_cast<std::int64_t>(axis & 0xff) << 24 |
           static_cast<std::int64_t>(peer) << 32;
}

struct Slot {
    Sequence sequence;
    Word number, what, bytes, begun, ended;
    Name name;
};

} // namespace

class FlightPage {
public:
    Sequence sequence; // of what follows, to `work`
    Word activity, doing, step, micro_batch, expected, activity_begun, doing_begun, step_begun, in_step;
    Name work;
    Word calls; // entered
    Word timed; // steps
    Word longest_save;
    Word times[FlightRecorder::time_slots];
    Slot slots[FlightRecorder::call_slots];
};

std::string_view name_of(CallKind kind) {
    constexpr std::string_view names[] = {"all_reduce", "all_reduce", "all_gather", "reduce_scatter",
                                          "all_to_all", "all_to_all", "broadcast",  "shift",
                                          "barrier",    "allocate",   "send",       "receive"};
    const auto index = static_cast<std::size_t>(kind);
    return index < std::size(names) ? names[index] : "unknown call";
}

std::string_view name_of(Activity activity) {
    constexpr std::string_view names[] = {"starting", "training", "evaluating", "saving", "auditing", "finishing"};
    const auto index = static_cast<std::size_t>(activity);
    return index < std::size(names) ? names[index] : "unknown activity";
}

std::int64_t monotonic_now() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

FlightState FlightView::state() const {
    FlightState state = page_->sequence.read([&] {
        FlightState s;
        s.activity = static_cast<Activity>(get(page_->activity));
        s.doing = static_cast<Doing>(get(page_->doing));
        s.step = get(page_->step);
        s.micro_batch = get(page_->micro_batch);
        s.expected = get(page_->expected);
        s.activity_begun = get(page_->activity_begun);
        s.doing_begun = get(page_->doing_begun);
        s.step_begun = get(page_->step_begun);
        s.in_step = get(page_->in_step) != 0;
        s.work = page_->work.get();
        return s;
    });
    state.calls = get(page_->calls);
    state.steps_timed = get(page_->timed);
    state.longest_save = get(page_->longest_save);
    return state;
}

std::vector<CallRecord> FlightView::calls(std::size_t most) const {
    std::vector<CallRecord> found;
    const std::int64_t entered = get(page_->calls);
    const auto kept = static_cast<std::int64_t>(std::min(most, FlightRecorder::call_slots));
    for (std::int64_t i = entered - 1; i >= std::max<std::int64_t>(entered - kept, 0); --i) {
        const Slot& slot = page_->slots[static_cast<std::size_t>(i) % FlightRecorder::call_slots];
        found.push_back(slot.sequence.read([&] {
            const std::int64_t what = get(slot.what);
            return CallRecord{get(slot.number),
                              static_cast<int>(what >> 24 & 0xff),
                              static_cast<CallKind>(what & 0xff),
                              static_cast<CallState>(what >> 8 & 0xff),
                              static_cast<DType>(what >> 16 & 0xff),
                              static_cast<int>(what >> 32),
                              get(slot.bytes),
                              get(slot.begun),
                              get(slot.ended),
                              slot.name.get()};
        }));
    }
    return found;
}

std::vector<std::int64_t> FlightView::step_times() const {
    const std::int64_t timed = get(page_->timed);
    std::vector<std::int64_t> times;
    for (std::size_t i = 0; i < std::min<std::size_t>(static_cast<std::size_t>(timed), FlightRecorder::time_slots); ++i)
        times.push_back(get(page_->times[i]));
    return times;
}

FlightRecorder::FlightRecorder() : own_page_(std::make_unique<FlightPage>()), page_(own_page_.get()) {
    put(page_->step, -1);
    begin(Activity::starting);
}

FlightRecorder::FlightRecorder(const ProcessGroup& host)
    : region_(std::make_unique<SharedRegion>(host, static_cast<std::int64_t>(sizeof(FlightPage)))),
      page_(reinterpret_cast<FlightPage*>(region_->window(host.rank()))) { // zeroed words are words
    put(page_->step, -1);
    begin(Activity::starting);
}

FlightRecorder::~FlightRecorder() = default;

FlightView FlightRecorder::own() const { return FlightView(page_); }

FlightView FlightRecorder::of_neighbour(int local_rank) const {
    return FlightView(region_ == nullptr ? page_ : reinterpret_cast<const FlightPage*>(region_->window(local_rank)));
}

void FlightRecorder::plant(std::unique_ptr<Fault> fault) { fault_ = std::move(fault); }

void FlightRecorder::add(Listener& listener) { listeners_.push_back(&listener); }
void FlightRecorder::remove(const Listener& listener) { std::erase(listeners_, &listener); }

void FlightRecorder::begin(Activity activity, std::int64_t micro_batches) {
    if (paused_) return;
    const std::int64_t now = monotonic_now();
    page_->sequence.begin();
    put(page_->activity, static_cast<std::int64_t>(activity));
    put(page_->expected, micro_batches);
    put(page_->activity_begun, now);
    put(page_->micro_batch, -1);
    put(page_->doing, static_cast<std::int64_t>(Doing::nothing_told));
    put(page_->doing_begun, now);
    page_->work.put(std::string_view());
    page_->sequence.end();
    for (Listener* const listener : listeners_)
        listener->at(activity, Doing::nothing_told, {}, now);
    if (fault_ != nullptr) skips_ = fault_->at(activity, Doing::nothing_told, get(page_->step)) || skips_;
}

void FlightRecorder::begin_micro_batch(std::int64_t micro_batch) {
    if (paused_) return;
    page_->sequence.begin();
    put(page_->micro_batch, micro_batch);
    page_->sequence.end();
}

void FlightRecorder::does(Doing doing, std::string_view work) {
    if (paused_) return;
    const std::int64_t now = monotonic_now();
    page_->sequence.begin();
    put(page_->doing, static_cast<std::int64_t>(doing));
    put(page_->doing_begun, now);
    page_->work.put(work);
    page_->sequence.end();
    for (Listener* const listener : listeners_)
        listener->at(static_cast<Activity>(get(page_->activity)), doing, work, now);
    if (fault_ != nullptr)
        skips_ = fault_->at(static_cast<Activity>(get(page_->activity)), doing, get(page_->step)) || skips_;
}

void FlightRecorder::reads_data() { does(Doing::reading_data, {}); }
void FlightRecorder::computes(std::string_view work) { does(Doing::computing, work); }
void FlightRecorder::waits_for_gpu() { does(Doing::waiting_for_gpu, {}); }
void FlightRecorder::is_idle() { does(Doing::nothing_told, {}); }

void FlightRecorder::saved_in(std::int64_t nanoseconds) {
    put(page_->longest_save, std::max(get(page_->longest_save), nanoseconds));
}

std::size_t FlightRecorder::began(int axis, CallKind kind, DType dtype, std::int64_t bytes, int peer) {
    if (paused_) return call_slots;
    std::int64_t& number = numbers_[static_cast<std::size_t>(axis) % numbers_.size()];
    if (kind < CallKind::send) ++number;
    const std::int64_t entered = get(page_->calls);
    Slot& slot = page_->slots[static_cast<std::size_t>(entered) % call_slots];
    slot.sequence.begin();
    put(slot.number, number);
    put(slot.what, packed(kind, CallState::begun, dtype, axis, peer));
    put(slot.bytes, bytes);
    put(slot.begun, monotonic_now());
    put(slot.ended, 0);
    slot.name.put(page_->work);
    slot.sequence.end();
    page_->calls.store(static_cast<std::uint64_t>(entered + 1), std::memory_order_release);
    return static_cast<std::size_t>(entered) % call_slots;
}

void FlightRecorder::ended(std::size_t call, CallState state) {
    if (call == call_slots) return;
    Slot& slot = page_->slots[call];
    slot.sequence.begin();
    put(slot.what, (get(slot.what) & ~std::int64_t{0xff00}) | static_cast<std::int64_t>(state) << 8);
    const std::int64_t now = monotonic_now();
    put(slot.ended, now);
    slot.sequence.end();
    const std::int64_t what = get(slot.what);
    for (Listener* const listener : listeners_)
        listener->called(static_cast<int>(what >> 24 & 0xff), static_cast<CallKind>(what & 0xff), get(slot.bytes),
                         get(slot.begun), now);
}

void FlightRecorder::end_step(bool keep) {
    if (paused_) return;
    const std::int64_t now = monotonic_now();
    if (keep) {
        const std::int64_t timed = get(page_->timed);
        put(page_->times[static_cast<std::size_t>(timed) % time_slots], now - get(page_->step_begun));
        put(page_->timed, timed + 1);
    }
    page_->sequence.begin();
    put(page_->in_step, 0);
    put(page_->micro_batch, -1);
    put(page_->doing, static_cast<std::int64_t>(Doing::nothing_told));
    put(page_->doing_begun, now);
    page_->work.put(std::string_view());
    page_->sequence.end();
    for (Listener* const listener : listeners_)
        listener->at(static_cast<Activity>(get(page_->activity)), Doing::nothing_told, {}, now);
}

FlightRecorder::Scope::Scope(FlightRecorder& recorder, Activity activity, std::int64_t micro_batches)
    : recorder_(recorder), before_(recorder.own().state()), begun_(monotonic_now()) {
    recorder.begin(activity, micro_batches);
}

// The activity before goes on as if it began now, and a step as if this had taken no time: their deadlines do not hold
// for what lay inside.
FlightRecorder::Scope::~Scope() {
    recorder_.begin(before_.activity, before_.expected);
    if (!before_.in_step || recorder_.paused_) return;
    FlightPage& page = *recorder_.page_;
    page.sequence.begin();
    put(page.step_begun, get(page.step_begun) + monotonic_now() - begun_);
    page.sequence.end();
}

FlightRecorder::StepScope::StepScope(FlightRecorder& recorder, std::int64_t step)
    : recorder_(recorder), exceptions_(std::uncaught_exceptions()) {
    if (recorder.paused_) return;
    put(recorder.page_->step, step);
    recorder.begin(Activity::training);
    recorder.page_->sequence.begin();
    put(recorder.page_->step_begun, get(recorder.page_->activity_begun));
    put(recorder.page_->in_step, 1);
    recorder.page_->sequence.end();
}

FlightRecorder::StepScope::~StepScope() { recorder_.end_step(std::uncaught_exceptions() == exceptions_); }

} // namespace tessera
