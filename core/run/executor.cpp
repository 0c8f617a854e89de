// SPDX-License-Identifier: Apache-2.0
// The executor: all views are bound to memory once; a step then walks lists.
#include "core/run/executor.hpp"

#include "core/plan/shares.hpp"
#include "kernels/copy.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <chrono>
#include <fmt/format.h>

namespace tessera {
namespace {

constexpr std::size_t before_turns = 2; // replays: of prepare and update

Stream sibling(const Stream& stream) {
    return std::visit([](const auto& s) { return Stream(s.sibling()); }, stream);
}

// Both are of one kind.
void follow(const Stream& later, const Stream& earlier) {
    std::visit([&](const auto& s) { s.follow(std::get<std::remove_cvref_t<decltype(s)>>(earlier)); }, later);
}

// As people are told of it.
std::string exchange_name(const Graph& graph, const Exchange& exchange) {
    const std::string& first = graph.value(exchange.values.front()).name;
    const std::size_t more = exchange.values.size() - 1;
    return more == 0 ? first : fmt::format("{} and {} more", first, more);
}

} // namespace

Executor::Executor(const Layout& layout, const Plan& plan, const Memory& memory, Groups& groups, Stream& stream,
                   bool replay)
    : layout_(layout), plan_(plan), memory_(memory), groups_(groups), recorder_(groups.recorder()), stream_(stream),
      exchange_stream_(sibling(stream)), message_stream_(sibling(stream)), gather_stream_(sibling(stream)),
      tree_(tree_of_replica(layout, layout.replica_axis < 0 ? 0 : groups.axis(layout.replica_axis).rank())),
      tree_of_replicas_(tree_of_replicas(layout)),
      accumulation_(accumulation_of(plan.share.size(), layout.reproducible)),
      sums_(sums_of(plan, layout.pipeline_axis)),
      transmissions_(by_messages()
                         ? std::vector<Transmission>()
                         : transmissions_of(plan, layout, groups.axis(std::max(layout.pipeline_axis, 0)).rank())),
      turns_(turns_of(plan, transmissions_, accumulation_)), records_(replay) {
    for (const Call& call : plan.calls(Phase::prepare))
        prepare_.push_back(bind(call, {}));
    for (const Call& call : plan.calls(Phase::update))
        update_.push_back(bind(call, {}));
    std::size_t kinds = 0;
    for (const Turn& turn : turns_) {
        for (const int part : turn.parts)
            bind_part(part, turn.place);
        kinds = std::max(kinds, turn.kind + 1);
    }
    replays_.resize(before_turns + kinds);
    for (const ValueId id : graph().of_kind(ValueKind::input))
        if (!graph().value(id).of_step) read_.push_back(id);
    batch_.resize(read_.size());
    bind_batch(0);
    find_step_inputs();
    for (const Exchange& exchange : plan.exchanges) {
        Sum& sum = exchanged_.emplace_back(Sum{{}, nullptr});
        for (const SlotPiece& piece : pieces_of(exchange, plan))
            sum.pieces.push_back(slot_view(0, {piece.offset, piece.bytes}));
        if (!exchange.values.empty()) sum.name = exchange_name(graph(), exchange);
        if (layout.reproducible && layout.shares_micro_batches(exchange.axis))
            sum.tree = exchange.axis == layout.data_axis ? &tree_ : &tree_of_replicas_;
    }
}

View Executor::bind(ValueId id, Place place, Phase phase) const {
    const PlannedValue& value = plan_.value(id);
    const TensorType seen = plan_.seen(id, phase);
    std::int64_t offset = value.offset;
    if (value.memory == MemoryKind::gradients) offset += static_cast<std::int64_t>(place.slot) * plan_.slot_bytes;
    if (value.chunk >= 0) {
        const Frames& frames = plan_.frames[static_cast<std::size_t>(value.chunk)];
        offset += frames.offset + place.frame * frames.bytes;
    }
    if (seen != value.local) offset += value.run.begin * bytes_of(seen.dtype);
    return memory_.view(value.memory, offset, seen);
}

Executor::BoundCall Executor::bind(const Call& call, Place place) const {
    const Node& node = graph().nodes()[static_cast<std::size_t>(call.node)];
    BoundCall bound{&node, {}, {}, memory_.workspace(call.workspace_bytes), &call.locality, call.ahead_of >= 0};
    const auto transfer = node.op->transfer();
    bound.gathers = transfer && transfer->collective == Collective::all_gather && transfer->axis == layout_.data_axis;
    for (const ValueId input : node.inputs)
        bound.inputs.push_back(bind(input, place, node.phase));
    for (const ValueId output : node.outputs)
        bound.outputs.push_back(bind(output, place, node.phase));
    return bound;
}

void Executor::bind_part(int index, Place place) {
    const auto [bound, is_new] = bound_.try_emplace({index, place});
    if (!is_new) return;
    const std::vector<Call>& calls = plan_.calls(part(index).phase);
    std::size_t begun = 0;
    for (std::int64_t i = part(index).calls.begin; i < part(index).calls.end; ++i)
        bound->second.push_back(bind(calls[static_cast<std::size_t>(i)], place));
    for (std::int64_t i = part(index).calls.begin; i < part(index).calls.end; ++i)
        if (const std::int64_t later = calls[static_cast<std::size_t>(i)].ahead_of; later >= 0) {
            ++bound->second[static_cast<std::size_t>(later - part(index).calls.begin)].awaited;
            ++begun;
        }
    begun_.reserve(std::max(begun, begun_.capacity()));
}

void Executor::bind_batch(int frame) {
    for (std::size_t i = 0; i < read_.size(); ++i)
        batch_[i] = plan_.value(read_[i]).offset < 0 ? View() : bind(read_[i], {0, frame});
}

void Executor::find_step_inputs() {
    std::int64_t bytes = 0;
    for (std::size_t i = 0; i < graph().values().size(); ++i) {
        const Value& value = graph().values()[i];
        if (!value.of_step || plan_.values[i].offset < 0) continue;
        const View view = bind(static_cast<ValueId>(i), {});
        step_inputs_.push_back({&value.of_step, value.phase, view, view});
        bytes += align_up(view.bytes());
    }
    if (std::holds_alternative<CpuStream>(stream_)) return; // written where they lie
    staging_ = std::visit([&](const auto& s) { return allocate_host(s, bytes); }, stream_);
    std::byte* at = staging_.data();
    for (StepInput& input : step_inputs_) {
        input.host = View(at, input.view.shape, input.view.dtype);
        at += align_up(input.view.bytes());
    }
}

// What is on its way has left the host's memory.
void Executor::end_uploads() {
    std::visit([](auto& s) { kernels::end_uploads(s); }, stream_);
}

// Those of the phases from `first` to `last`: of the others, something else may lie in the memory by now. The uploads
// of the last time have ended; that of a batch need not, it waits behind the work before it.
void Executor::write_step_inputs(const StepState& state, Phase first, Phase last) {
    for (const StepInput& input : step_inputs_) {
        if (input.phase < first || input.phase > last) continue;
        (*input.of_step)(state, input.host);
        if (staging_.bytes() > 0)
            std::visit([&](auto& s) { kernels::begin_upload(s, input.host, input.view); }, stream_);
    }
}

// The work is handed on by reference: a copy of its captures would allocate.
template <class Work> void Executor::replay(Replay& part, const Work& work) {
    const bool records = records_ && !watcher_;
    if (records && !by_messages()) recorder_.computes("a recorded part of the step");
    if (records)
        std::visit([&](auto& s) { part.run(s, std::cref(work)); }, stream_);
    else
        work();
}

void Executor::prepare(const StepState& state) {
    end_uploads();
    write_step_inputs(state, Phase::prepare, Phase::prepare);
    replay(replays_[0], [&] { run(prepare_); });
}

void Executor::update(const StepState& state) {
    end_uploads();
    write_step_inputs(state, Phase::update, Phase::update);
    replay(replays_[1], [&] { run(update_); });
    recorder_.is_idle();
}

View Executor::slot_view(std::size_t slot, SlotPiece piece) const {
    return memory_.view(MemoryKind::gradients, static_cast<std::int64_t>(slot) * plan_.slot_bytes + piece.offset,
                        {{piece.bytes / bytes_of(DType::f32)}, DType::f32});
}

// The sum of a rank without micro-batches is nothing, whatever its idle round has made: -0, since x + -0 is x to the
// last bit, of a 0 the sign, too.
void Executor::merge(const Turn& turn, const std::vector<SlotPiece>& pieces) {
    for (const SlotPiece piece : pieces)
        if (turn.micro_batch < 0) std::visit([&](auto& s) { kernels::fill(s, slot_view(0, piece), -0.0f); }, stream_);
    if (turn.micro_batch < 0) return;
    for (const Merge& one : accumulation_[static_cast<std::size_t>(turn.micro_batch)].merges)
        for (const SlotPiece piece : pieces) {
            const View into = slot_view(one.into, piece);
            std::visit([&](auto& s) { kernels::add(s, into, slot_view(one.from, piece), into); }, stream_);
        }
}

// Sums over the data ranks have a stream of their own; on the other axes the micro-batches' own collectives are under
// way.
void Executor::reduce(std::size_t index) {
    const Exchange& exchange = plan_.exchanges[index];
    const Sum& sum = exchanged_[index];
    recorder_.computes(sum.name);
    Communicator& communicator = groups_.axis(exchange.axis);
    const View buffer = slot_view(0, {exchange.offset, exchange.bytes});
    if (exchange.absent) std::visit([&](auto& s) { kernels::fill(s, buffer, -0.0f); }, stream_);
    follow(exchange_stream_, stream_); // so that it is recorded, too
    const bool beside = layout_.shares_micro_batches(exchange.axis);
    if (!beside) follow(stream_, exchange_stream_); // which may be at the same sums
    Stream& stream = beside ? exchange_stream_ : stream_;
    if (exchange.collective == Collective::reduce_scatter)
        for (const ValueId id : exchange.values) {
            const View whole = bind(id, {}), part = bind(id, {}, Phase::update);
            communicator.reduce_scatter(stream, View(whole.memory(), {whole.count()}, whole.dtype),
                                        View(part.memory(), {part.count()}, part.dtype), {flat_block, sum.tree});
        }
    else
        for (const View& piece : sum.pieces)
            if (sum.tree != nullptr)
                communicator.tree_reduce(stream, piece, *sum.tree);
            else
                communicator.all_reduce(stream, piece, Reduction::sum);
}

void Executor::run(Calls calls) {
    for (const BoundCall& call : calls) {
        if (call.awaited > 0) end_begun(call.awaited);
        if (call.begins)
            begin(call);
        else
            run(call);
        if (!begun_.empty()) groups_.axis(layout_.data_axis).progress();
    }
}

// Weights that are still on their way have the data axis's communicator, one thing after the other.
void Executor::run(const BoundCall& call) {
    recorder_.computes(call.node->name);
    const auto start = call.gathers ? Clock::now() : Clock::time_point();
    const auto transfer = begun_.empty() ? std::nullopt : call.node->op->transfer();
    if (transfer && transfer->axis == layout_.data_axis) follow(stream_, gather_stream_);
    call.node->op->run(stream_, {call.inputs, call.outputs, call.workspace, call.locality, &groups_});
    if (call.gathers) waited_for_weights_since(start);
    if (watcher_) watcher_(*call.node, micro_batch_, call.outputs);
}

// What lay in its memory before has been used: on a GPU it goes on beside what follows.
void Executor::begin(const BoundCall& call) {
    recorder_.computes(call.node->name);
    const auto start = Clock::now();
    follow(gather_stream_, stream_);
    const Operands operands{call.inputs, call.outputs, call.workspace, call.locality, &groups_};
    begun_.push_back({&call, call.node->op->begin(gather_stream_, operands)});
    waited_for_weights_since(start);
}

void Executor::end_begun(std::size_t count) {
    const auto start = Clock::now();
    const auto end = begun_.begin() + static_cast<std::ptrdiff_t>(count);
    recorder_.computes(begun_.front().call->node->name);
    for (auto one = begun_.begin(); one != end; ++one)
        groups_.axis(layout_.data_axis).finish(one->ticket);
    follow(stream_, gather_stream_);
    waited_for_weights_since(start);
    for (auto one = begun_.begin(); watcher_ && one != end; ++one)
        watcher_(*one->call->node, micro_batch_, one->call->outputs);
    begun_.erase(begun_.begin(), end);
}

void Executor::waited_for_weights_since(Clock::time_point start) {
    if (by_messages()) seconds_waited_for_weights_ += std::chrono::duration<double>(Clock::now() - start).count();
}

// In the last micro-batch the exchanges start between the calls. What other stages wait for goes before those at the
// end.
void Executor::run_part(int index, const Turn& turn) {
    const Calls calls = bound(index, turn.place);
    const Sums& sums = sums_[static_cast<std::size_t>(index)];
    if (!turn.last) {
        run(calls);
        return turn.micro_batch < 0 ? void() : merge(turn, sums.all);
    }
    std::size_t done = 0;
    for (const Sums::OfExchange& one : sums.exchanges) {
        const auto after = static_cast<std::size_t>(one.after);
        run(calls.subspan(done, after - done));
        done = after;
        merge(turn, one.pieces);
        if (!is_late(index, one)) reduce(one.exchange);
    }
    run(calls.subspan(done));
    merge(turn, sums.rest);
    if (!sums.exchanges.empty() && layout_.stages() == 1) follow(stream_, exchange_stream_);
}

bool Executor::is_late(int index, const Sums::OfExchange& one) const {
    return layout_.stages() > 1 && one.after == part(index).calls.size();
}

void Executor::run_late_exchanges(const Turn& turn) {
    for (const int index : turn.parts)
        for (const Sums::OfExchange& one : sums_[static_cast<std::size_t>(index)].exchanges)
            if (turn.last && is_late(index, one)) reduce(one.exchange);
}

// On a GPU, what comes before the task: in the one order, on a queue of its own, behind the work so far.
void Executor::transmit(std::size_t until_task) {
    if (transmitted_ < transmissions_.size() && transmissions_[transmitted_].task <= until_task)
        follow(message_stream_, stream_);
    for (; transmitted_ < transmissions_.size() && transmissions_[transmitted_].task <= until_task; ++transmitted_) {
        const Transmission& one = transmissions_[transmitted_];
        const View view = bind(one.message.value, {0, one.frame});
        recorder_.computes(graph().value(one.message.value).name);
        if (one.message.lost)
            lose(message_stream_, view, one.sends);
        else if (one.sends)
            stages().send(message_stream_, view, one.message.peer);
        else
            stages().receive(message_stream_, view, one.message.peer);
    }
}

// In its frame. What the last one there had to send may still be on its way; what this one will be sent is expected.
void Executor::begin_micro_batch(const Turn& turn) {
    const int chunk = part(turn.parts.front()).chunk, frame = turn.place.frame;
    finish(sent_[{chunk, frame}]);
    for (int index = 0; index < static_cast<int>(plan_.parts.size()); ++index) {
        if (part(index).chunk != chunk) continue;
        for (const StageMessage& message : part(index).receives) {
            const View view = bind(message.value, turn.place);
            if (message.lost)
                lose(stream_, view, false);
            else
                expected_[{index, frame}].push_back(stages().expect(stream_, view, message.peer, message.channel));
        }
    }
}

void Executor::lose(Stream& stream, const View& view, bool sends) {
    if (!sends) std::visit([&](auto& s) { kernels::fill(s, view, 0); }, stream);
}

// What has come from other stages, by the nodes that made it there.
void Executor::watch_received(const Turn& turn) {
    for (const StageMessage& message : part(turn.parts.front()).receives) {
        const Node& maker = graph().nodes()[static_cast<std::size_t>(graph().value(message.value).producer)];
        std::vector<View> outputs(maker.outputs.size());
        const auto place = std::ranges::find(maker.outputs, message.value) - maker.outputs.begin();
        outputs[static_cast<std::size_t>(place)] = bind(message.value, turn.place);
        watcher_(maker, micro_batch_, outputs);
    }
}

void Executor::finish(std::vector<Communicator::Ticket>& tickets) {
    for (const Communicator::Ticket ticket : tickets)
        stages().finish(ticket);
    tickets.clear();
}

void Executor::receive(const Turn& turn) {
    if (layout_.stages() == 1) return;
    if (!by_messages()) {
        transmit(turn.task);
        const Part& first = part(turn.parts.front());
        // All so far: a frame is used again, or something is awaited.
        if (first.work == Work::forward || !first.receives.empty()) follow(stream_, message_stream_);
        return;
    }
    const auto start = Clock::now();
    if (part(turn.parts.front()).work == Work::forward) begin_micro_batch(turn);
    if (const auto& awaited = part(turn.parts.front()).receives; !awaited.empty())
        recorder_.computes(graph().value(awaited.front().value).name);
    finish(expected_[{turn.parts.front(), turn.place.frame}]);
    seconds_waited_ += std::chrono::duration<double>(Clock::now() - start).count();
}

void Executor::send(const Turn& turn) {
    const Part& last = part(turn.parts.back());
    if (!by_messages()) return;
    for (const StageMessage& message : last.sends) {
        if (message.lost) continue;
        sent_[{last.chunk, turn.place.frame}].push_back(
            stages().post(stream_, bind(message.value, turn.place), message.peer, message.channel));
    }
}

// For a round without a micro-batch.
void Executor::clear_batch() {
    for (const View& view : batch_) {
        const View words(view.memory(), {view.bytes() / bytes_of(DType::f32)}, DType::f32);
        if (view.memory() != nullptr) std::visit([&](auto& s) { kernels::fill(s, words, 0); }, stream_);
    }
}

void Executor::run_turn(const Turn& turn) {
    for (const int part : turn.parts)
        run_part(part, turn);
}

void Executor::run_micro_batches(StepState state, std::int64_t micro_batch_size,
                                 const std::function<void()>& next_batch) {
    for (const Turn& turn : turns_) {
        end_uploads();
        const Part& first = part(turn.parts.front());
        micro_batch_ = turn.micro_batch;
        recorder_.begin_micro_batch(turn.micro_batch);
        receive(turn);
        if (watcher_) watch_received(turn);
        if (first.reads_batch) {
            bind_batch(turn.place.frame);
            recorder_.reads_data();
            turn.micro_batch < 0 ? clear_batch() : next_batch();
        }
        state.first_sample = (plan_.share.begin + turn.micro_batch * plan_.stride) * micro_batch_size;
        write_step_inputs(state, Phase::forward, Phase::backward);
        replay(replays_[before_turns + turn.kind], [&] { run_turn(turn); });
        send(turn);
        run_late_exchanges(turn);
    }
    micro_batch_ = -1;
    recorder_.computes("messages to other stages");
    for (auto& [frame, tickets] : sent_)
        finish(tickets);
    if (layout_.stages() > 1 && !by_messages()) {
        transmit(plan_.tasks.size());
        follow(stream_, message_stream_);
        transmitted_ = 0;
    }
    if (layout_.stages() > 1) follow(stream_, exchange_stream_);
    for (std::size_t i = 0; i < plan_.exchanges.size(); ++i)
        if (plan_.exchanges[i].axis == layout_.pipeline_axis) reduce(i);
}

} // namespace tessera
