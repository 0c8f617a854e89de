// SPDX-License-Identifier: Apache-2.0
// Each call in two stores: what begins, and that it has ended.
#include "parallel/communication/recorded.hpp"

#include "kernels/error.hpp"

#include <array>
#include <cstring>
#include <fmt/format.h>
#include <vector>

namespace tessera {
namespace {

constexpr std::int64_t unknown_bytes = -1; // of each rank's own

// What a rank is about to do, as the others are told.
struct Intent {
    std::int64_t number, bytes;
    Shape shape;
    CallKind kind;
    DType dtype;
    char name[FlightRecorder::name_bytes];
};

std::string text_of(const Intent& intent) {
    const std::string name(intent.name, ::strnlen(intent.name, sizeof intent.name));
    std::string text{name_of(intent.kind)};
    if (!name.empty()) text += fmt::format(" '{}'", name);
    if (intent.bytes != unknown_bytes)
        text += fmt::format(" of {} bytes, {} of {}", intent.bytes, intent.shape.text(), name_of(intent.dtype));
    return text;
}

bool is_same(const Intent& a, const Intent& b) {
    return a.kind == b.kind && a.bytes == b.bytes && a.shape == b.shape && a.dtype == b.dtype &&
           std::memcmp(a.name, b.name, sizeof a.name) == 0;
}

class RecordedCommunicator final : public Communicator {
public:
    RecordedCommunicator(std::unique_ptr<Communicator> communicator, RecordedAxis axis, FlightRecorder& recorder,
                         std::optional<ProcessGroup> check)
        : of_(std::move(communicator)), axis_(std::move(axis)), recorder_(recorder), check_(std::move(check)) {
        if (check_) intents_.resize(static_cast<std::size_t>(check_->size()));
    }

    int rank() const override { return of_->rank(); }
    int size() const override { return of_->size(); }

    void all_reduce(Stream& stream, View buffer, Reduction reduction) override {
        run(CallKind::all_reduce, stream, buffer, [&] { of_->all_reduce(stream, buffer, reduction); });
    }
    void tree_reduce(Stream& stream, View buffer, const SummationTree& tree) override {
        run(CallKind::tree_reduce, stream, buffer, [&] { of_->tree_reduce(stream, buffer, tree); });
    }
    void all_gather(Stream& stream, ConstView part, View whole, const Parts& parts) override {
        run(CallKind::all_gather, stream, whole, [&] { of_->all_gather(stream, part, whole, parts); });
    }
    void reduce_scatter(Stream& stream, ConstView whole, View part, const Parts& parts) override {
        run(CallKind::reduce_scatter, stream, whole, [&] { of_->reduce_scatter(stream, whole, part, parts); });
    }
    void all_to_all(Stream& stream, ConstView send, View receive) override {
        run(CallKind::all_to_all, stream, send, [&] { of_->all_to_all(stream, send, receive); });
    }
    void all_to_allv(Stream& stream, ConstView send, View receive, std::span<const std::int64_t> bytes) override {
        run(CallKind::all_to_allv, stream, send, [&] { of_->all_to_allv(stream, send, receive, bytes); });
    }
    void broadcast(Stream& stream, View buffer, int root) override {
        run(
            CallKind::broadcast, stream, buffer, [&] { of_->broadcast(stream, buffer, root); }, root);
    }
    void send(Stream& stream, ConstView view, int to) override {
        run(
            CallKind::send, stream, view, [&] { of_->send(stream, view, to); }, to);
    }
    void receive(Stream& stream, View view, int from) override {
        run(
            CallKind::receive, stream, view, [&] { of_->receive(stream, view, from); }, from);
    }
    void shift(Stream& stream, ConstView send, View receive) override {
        run(CallKind::shift, stream, send, [&] { of_->shift(stream, send, receive); });
    }
    void barrier(Stream& stream) override {
        run(CallKind::barrier, stream, View(nullptr, {0}, DType::f32), [&] { of_->barrier(stream); });
    }

    // What is posted and expected is noted as a call when somebody waits for it.
    Ticket post(Stream& stream, ConstView view, int to, int channel) override {
        const Ticket ticket = of_->post(stream, view, to, channel);
        note(ticket, CallKind::send, view, to);
        return ticket;
    }
    Ticket expect(Stream& stream, View view, int from, int channel) override {
        const Ticket ticket = of_->expect(stream, view, from, channel);
        note(ticket, CallKind::receive, view, from);
        return ticket;
    }
    void finish(Ticket ticket) override {
        const Pending& pending = pending_[slot_of(ticket)];
        if (pending.ticket != ticket) return of_->finish(ticket);
        const std::size_t call =
            recorder_.began(axis_.number, pending.kind, pending.dtype, pending.bytes, pending.peer);
        of_->finish(ticket);
        recorder_.ended(call, CallState::ended);
        bytes_sent_ = of_->bytes_sent();
    }
    Ticket begin_all_gather(Stream& stream, ConstView part, View whole, const Parts& parts) override {
        Ticket ticket = -1;
        run(CallKind::all_gather, stream, whole, [&] { ticket = of_->begin_all_gather(stream, part, whole, parts); });
        note(ticket, CallKind::receive, whole, -1);
        return ticket;
    }
    void progress() override { of_->progress(); }

    void wait(Stream& stream, Seconds patience) override {
        recorder_.waits_for_gpu();
        of_->wait(stream, patience);
        recorder_.is_idle();
    }
    Buffer allocate(const Stream& stream, std::int64_t bytes) override {
        const std::size_t call = recorder_.began(axis_.number, CallKind::allocate, DType::f32, bytes, -1);
        Buffer buffer = of_->allocate(stream, bytes);
        recorder_.ended(call, CallState::ended);
        return buffer;
    }
    std::int64_t workspace_bytes(Collective collective, std::int64_t whole_bytes) const override {
        return of_->workspace_bytes(collective, whole_bytes);
    }
    void use_workspace(View workspace) override { of_->use_workspace(workspace); }

private:
    struct Pending {
        Ticket ticket = -1;
        CallKind kind = CallKind::send;
        DType dtype = DType::f32;
        std::int64_t bytes = 0;
        int peer = -1;
    };
    static constexpr std::size_t most_pending = 64; // more are forgotten, and waited for unrecorded

    static std::size_t slot_of(Ticket ticket) { return static_cast<std::size_t>(ticket) % most_pending; }

    template <class AnyView> void note(Ticket ticket, CallKind kind, const AnyView& view, int peer) {
        if (ticket >= 0) pending_[slot_of(ticket)] = {ticket, kind, view.dtype, view.bytes(), peer};
    }

    template <class AnyView, class Call>
    void run(CallKind kind, Stream& stream, const AnyView& view, const Call& call, int peer = -1) {
        if (kind < CallKind::send && recorder_.skips_next()) return; // planted
        const std::size_t recorded = recorder_.began(axis_.number, kind, view.dtype, view.bytes(), peer);
        if (check_ && kind < CallKind::send) compare(view.shape);
        call();
        const bool at_once = std::holds_alternative<CpuStream>(stream);
        recorder_.ended(recorded, at_once ? CallState::ended : CallState::queued);
        bytes_sent_ = of_->bytes_sent();
    }

    // Everybody tells everybody: all throw together.
    void compare(const Shape& shape) {
        const CallRecord record = recorder_.own().calls(1).front();
        const auto self = static_cast<std::size_t>(check_->rank());
        Intent& own = intents_[self];
        own = {record.number, record.bytes, shape, record.kind, record.dtype, {}};
        if (record.kind == CallKind::all_to_allv) {
            own.bytes = unknown_bytes;
            own.shape = {};
        }
        record.name.copy(own.name, sizeof own.name);
        std::vector<Message> sends, receives;
        for (int rank = 0; rank < check_->size(); ++rank) {
            if (rank == check_->rank()) continue;
            sends.push_back({&own, sizeof own, rank});
            receives.push_back({&intents_[static_cast<std::size_t>(rank)], sizeof own, rank});
        }
        check_->exchange(sends, receives);
        for (std::size_t rank = 1; rank < intents_.size(); ++rank)
            if (!is_same(intents_[0], intents_[rank]))
                throw InternalError(fmt::format(
                    "ranks of {} are in different collectives: number 0 of them calls {} (call {}), number {} calls {} "
                    "(call {})",
                    axis_.name, text_of(intents_[0]), intents_[0].number, rank, text_of(intents_[rank]),
                    intents_[rank].number));
    }

    std::unique_ptr<Communicator> of_;
    RecordedAxis axis_;
    FlightRecorder& recorder_;
    std::optional<ProcessGroup> check_;
    std::vector<Intent> intents_; // by rank
    std::array<Pending, most_pending> pending_{};
};

} // namespace

std::unique_ptr<Communicator> make_recorded_communicator(std::unique_ptr<Communicator> communicator, RecordedAxis axis,
                                                         FlightRecorder& recorder, std::optional<ProcessGroup> check) {
    return std::make_unique<RecordedCommunicator>(std::move(communicator), std::move(axis), recorder, std::move(check));
}

} // namespace tessera
