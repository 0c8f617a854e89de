// SPDX-License-Identifier: Apache-2.0
// The executor: all views are bound to memory once; a step then walks lists.
#include "core/run/executor.hpp"

#include "kernels/copy.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/error.hpp"

#include <algorithm>

namespace tessera {
namespace {

// Both are of one kind.
void follow(const Stream& later, const Stream& earlier) {
    std::visit([&](const auto& s) { s.follow(std::get<std::remove_cvref_t<decltype(s)>>(earlier)); }, later);
}

} // namespace

Executor::Executor(const Layout& layout, const Plan& plan, const Memory& memory, Groups& groups, Stream& stream,
                   bool replay)
    : layout_(layout), plan_(plan), memory_(memory), groups_(groups), stream_(stream),
      exchange_stream_(std::visit([](const auto& s) { return Stream(s.sibling()); }, stream)), tree_(layout.tree()),
      records_(replay) {
    for (int slot = 0; slot < plan.slots; ++slot) {
        calls_.emplace_back();
        for (std::size_t phase = 0; phase < plan.phases.size(); ++phase) {
            const bool once =
                phase == static_cast<std::size_t>(Phase::prepare) || phase == static_cast<std::size_t>(Phase::update);
            if (once && slot > 0) continue;
            for (const Call& call : plan.phases[phase])
                calls_.back()[phase].push_back(bind(call, slot));
        }
    }
    plan_merges();
    plan_merges_of_pieces();
    find_step_inputs();
}

View Executor::bind(ValueId id, int slot, Phase phase) const {
    const PlannedValue& value = plan_.value(id);
    const TensorType seen = plan_.seen(id, phase);
    std::int64_t offset = value.offset + (value.memory == MemoryKind::gradients ? slot * plan_.slot_bytes : 0);
    if (seen != value.local) offset += value.run.begin * bytes_of(seen.dtype);
    return memory_.view(value.memory, offset, seen);
}

Executor::BoundCall Executor::bind(const Call& call, int slot) const {
    const Node& node = graph().nodes()[static_cast<std::size_t>(call.node)];
    BoundCall bound{&node, {}, {}, memory_.workspace(call.workspace_bytes), &call.locality};
    for (const ValueId input : node.inputs)
        bound.inputs.push_back(bind(input, slot, node.phase));
    for (const ValueId output : node.outputs)
        bound.outputs.push_back(bind(output, slot, node.phase));
    return bound;
}

// A binary counter: each micro-batch goes to the first free slot; neighbours that sum equally many are merged. Without
// the promise of equal bits, two slots do: a running sum and the newcomer.
void Executor::plan_merges() {
    replays_.resize(2);               // of prepare and update
    std::vector<std::int64_t> summed; // micro-batches in each slot in use
    const auto merge_two = [&](MicroBatch& after) {
        after.merges.push_back({summed.size() - 2, summed.size() - 1});
        summed[summed.size() - 2] += summed.back();
        summed.pop_back();
    };
    for (std::int64_t i = 0; i < plan_.share.size(); ++i) {
        MicroBatch& micro_batch =
            micro_batches_.emplace_back(MicroBatch{summed.size(), {}, i + 1 == plan_.share.size(), replays_.size()});
        summed.push_back(1);
        while (summed.size() > 1 && (!layout_.reproducible || summed[summed.size() - 2] == summed.back()))
            merge_two(micro_batch);
        while (summed.size() > 1 && micro_batch.last)
            merge_two(micro_batch);
        const auto same = std::find_if(micro_batches_.begin(), micro_batches_.end() - 1, [&](const MicroBatch& other) {
            return other.slot == micro_batch.slot && other.merges == micro_batch.merges && !micro_batch.last;
        });
        if (same < micro_batches_.end() - 1)
            micro_batch.replay = same->replay;
        else
            replays_.emplace_back();
    }
}

// A sum that is exchanged over two axes is merged once, before the first of them.
void Executor::plan_merges_of_pieces() {
    std::vector<Piece> open{{0, plan_.slot_bytes}}; // not merged yet
    for (const Exchange& exchange : plan_.exchanges) {
        const std::int64_t begin = exchange.offset, end = exchange.offset + exchange.bytes;
        std::vector<Piece> inside, outside;
        const auto add = [](std::vector<Piece>& pieces, std::int64_t from, std::int64_t to) {
            if (to > from) pieces.push_back({from, to - from});
        };
        for (const Piece piece : open) {
            const std::int64_t piece_end = piece.offset + piece.bytes;
            add(outside, piece.offset, std::min(piece_end, begin));
            add(inside, std::max(piece.offset, begin), std::min(piece_end, end));
            add(outside, std::max(piece.offset, end), piece_end);
        }
        merged_before_.push_back(std::move(inside));
        open = std::move(outside);
    }
    merged_before_.push_back(std::move(open));
}

void Executor::find_step_inputs() {
    std::int64_t bytes = 0;
    for (std::size_t i = 0; i < graph().values().size(); ++i) {
        const Value& value = graph().values()[i];
        if (!value.of_step || plan_.values[i].offset < 0) continue;
        const View view = bind(static_cast<ValueId>(i), 0);
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

// Those of the phases from `first` to `last`: of the others, something else may lie in the memory by now.
void Executor::write_step_inputs(const StepState& state, Phase first, Phase last) {
    std::visit([](auto& s) { kernels::end_uploads(s); }, stream_); // of the last time
    for (const StepInput& input : step_inputs_) {
        if (input.phase < first || input.phase > last) continue;
        (*input.of_step)(state, input.host);
        if (staging_.bytes() > 0)
            std::visit([&](auto& s) { kernels::begin_upload(s, input.host, input.view); }, stream_);
    }
}

// The work is handed on by reference: a copy of its captures would allocate.
template <class Work> void Executor::replay(Replay& part, const Work& work) {
    if (records_)
        std::visit([&](auto& s) { part.run(s, std::cref(work)); }, stream_);
    else
        work();
}

void Executor::prepare(const StepState& state) {
    write_step_inputs(state, Phase::prepare, Phase::prepare);
    replay(replays_[0], [&] { run(bound(0, Phase::prepare)); });
}

void Executor::update(const StepState& state) {
    write_step_inputs(state, Phase::update, Phase::update);
    replay(replays_[1], [&] { run(bound(0, Phase::update)); });
}

View Executor::slot_view(std::size_t slot, Piece piece) const {
    return memory_.view(MemoryKind::gradients, static_cast<std::int64_t>(slot) * plan_.slot_bytes + piece.offset,
                        {{piece.bytes / bytes_of(DType::f32)}, DType::f32});
}

void Executor::merge(const std::vector<Merge>& merges, Piece piece) {
    for (const Merge& one : merges) {
        const View into = slot_view(one.into, piece);
        std::visit([&](auto& s) { kernels::add(s, into, slot_view(one.from, piece), into); }, stream_);
    }
}

// The data axis has a stream of its own; on the others the micro-batches' own collectives are under way.
void Executor::reduce(const Exchange& exchange) {
    const View buffer = slot_view(0, {exchange.offset, exchange.bytes});
    Communicator& communicator = groups_.axis(exchange.axis);
    if (exchange.axis != layout_.data_axis) {
        follow(exchange_stream_, stream_); // so that it is recorded, too
        follow(stream_, exchange_stream_); // which may be at the same sums
        return communicator.all_reduce(stream_, buffer, Reduction::sum);
    }
    follow(exchange_stream_, stream_);
    const SummationTree* tree = layout_.reproducible ? &tree_ : nullptr;
    if (exchange.collective == Collective::reduce_scatter)
        for (const ValueId id : exchange.values) {
            const View whole = bind(id, 0), part = bind(id, 0, Phase::update);
            communicator.reduce_scatter(exchange_stream_, View(whole.memory(), {whole.count()}, whole.dtype),
                                        View(part.memory(), {part.count()}, part.dtype), {flat_block, tree});
        }
    else if (tree != nullptr)
        communicator.tree_reduce(exchange_stream_, buffer, tree_);
    else
        communicator.all_reduce(exchange_stream_, buffer, Reduction::sum);
}

void Executor::run(Calls calls) {
    for (const BoundCall& call : calls) {
        call.node->op->run(stream_, {call.inputs, call.outputs, call.workspace, call.locality, &groups_});
        if (watcher_) watcher_(*call.node, micro_batch_, call.outputs);
    }
}

void Executor::run_last_backward(const MicroBatch& micro_batch) {
    const Calls backward = bound(micro_batch.slot, Phase::backward);
    std::size_t done = 0;
    for (std::size_t i = 0; i < plan_.exchanges.size(); ++i) {
        const Exchange& exchange = plan_.exchanges[i];
        run(backward.subspan(done, exchange.after - done));
        done = exchange.after;
        for (const Piece piece : merged_before_[i])
            merge(micro_batch.merges, piece);
        reduce(exchange);
    }
    run(backward.subspan(done));
    for (const Piece piece : merged_before_.back())
        merge(micro_batch.merges, piece);
    if (!plan_.exchanges.empty()) follow(stream_, exchange_stream_);
}

void Executor::run_micro_batch(const MicroBatch& micro_batch) {
    run(bound(micro_batch.slot, Phase::forward));
    if (micro_batch.last) {
        run_last_backward(micro_batch);
    } else {
        run(bound(micro_batch.slot, Phase::backward));
        merge(micro_batch.merges, {0, plan_.slot_bytes});
    }
}

// On a batch of zeros; what it accumulates is written over by the first micro-batch.
void Executor::run_idle_round(const StepState& state) {
    for (const ValueId id : graph().of_kind(ValueKind::input)) {
        if (graph().value(id).of_step || plan_.value(id).offset < 0) continue;
        const View view = bind(id, 0);
        const View words(view.memory(), {view.bytes() / bytes_of(DType::f32)}, DType::f32);
        std::visit([&](auto& s) { kernels::fill(s, words, 0); }, stream_);
    }
    write_step_inputs(state, Phase::forward, Phase::backward);
    run(bound(0, Phase::forward));
}

void Executor::run_micro_batches(StepState state, std::int64_t micro_batch_size,
                                 const std::function<void()>& next_batch) {
    for (std::int64_t round = 0; round < plan_.idle_rounds; ++round)
        run_idle_round(state);
    for (std::size_t i = 0; i < micro_batches_.size(); ++i) {
        next_batch();
        const MicroBatch& micro_batch = micro_batches_[i];
        state.first_sample = (plan_.share.begin + static_cast<std::int64_t>(i) * plan_.stride) * micro_batch_size;
        write_step_inputs(state, Phase::forward, Phase::backward);
        micro_batch_ = static_cast<std::int64_t>(i);
        replay(replays_[micro_batch.replay], [&] { run_micro_batch(micro_batch); });
    }
    micro_batch_ = -1;
}

} // namespace tessera
