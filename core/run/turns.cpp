// SPDX-License-Identifier: Apache-2.0
// Slots, sums and turns.
#include "core/run/turns.hpp"

#include "kernels/memory.hpp"

#include <algorithm>

namespace tessera {
namespace {

// Neighbours as one.
std::vector<SlotPiece> joined(std::vector<SlotPiece> pieces) {
    std::ranges::sort(pieces, {}, &SlotPiece::offset);
    std::vector<SlotPiece> result;
    for (const SlotPiece& piece : pieces)
        if (!result.empty() && result.back().offset + result.back().bytes == piece.offset)
            result.back().bytes += piece.bytes;
        else
            result.push_back(piece);
    return result;
}

// The pieces' parts inside and outside [begin, end).
struct Divided {
    std::vector<SlotPiece> inside, outside;
};

Divided divide(const std::vector<SlotPiece>& pieces, std::int64_t begin, std::int64_t end) {
    Divided result;
    const auto add = [](std::vector<SlotPiece>& to, std::int64_t from, std::int64_t until) {
        if (until > from) to.push_back({from, until - from});
    };
    for (const SlotPiece& piece : pieces) {
        const std::int64_t piece_end = piece.offset + piece.bytes;
        add(result.outside, piece.offset, std::min(piece_end, begin));
        add(result.inside, std::max(piece.offset, begin), std::min(piece_end, end));
        add(result.outside, std::max(piece.offset, end), piece_end);
    }
    return result;
}

std::vector<SlotPiece> made_by(const Part& part, const Plan& plan) {
    std::vector<SlotPiece> pieces;
    for (std::int64_t i = part.calls.begin; i < part.calls.end; ++i) {
        const Call& call = plan.calls(part.phase)[static_cast<std::size_t>(i)];
        for (const ValueId id : plan.graph.nodes()[static_cast<std::size_t>(call.node)].outputs) {
            const PlannedValue& value = plan.value(id);
            if (value.memory == MemoryKind::gradients) pieces.push_back({value.offset, align_up(value.local.bytes())});
        }
    }
    return joined(std::move(pieces));
}

} // namespace

std::vector<Accumulation> accumulation_of(std::int64_t micro_batches, bool reproducible) {
    std::vector<Accumulation> result;
    std::vector<std::int64_t> summed; // micro-batches in each slot in use
    for (std::int64_t i = 0; i < micro_batches; ++i) {
        Accumulation& one = result.emplace_back(Accumulation{summed.size(), {}});
        const auto merge_two = [&] {
            one.merges.push_back({summed.size() - 2, summed.size() - 1});
            summed[summed.size() - 2] += summed.back();
            summed.pop_back();
        };
        summed.push_back(1);
        while (summed.size() > 1 && (!reproducible || summed[summed.size() - 2] == summed.back()))
            merge_two();
        while (summed.size() > 1 && i + 1 == micro_batches)
            merge_two();
    }
    return result;
}

// An exchange starts in the part of the backward phase that does the last of the calls it waits for; that of values of
// the forward phase alone in the first. Without a backward phase all start at the end. A sum that is exchanged over two
// axes is merged once, before the first of them.
std::vector<Sums> sums_of(const Plan& plan, int pipeline_axis) {
    std::vector<Sums> result;
    std::size_t next = 0;
    for (const Part& part : plan.parts) {
        Sums sums{made_by(part, plan), {}, {}};
        sums.rest = sums.all;
        const bool at_end = plan.parts.back().phase == Phase::forward && &part == &plan.parts.back();
        for (; next < plan.exchanges.size(); ++next) {
            const Exchange& exchange = plan.exchanges[next];
            const auto after = static_cast<std::int64_t>(exchange.after);
            if (exchange.axis == pipeline_axis) break; // the last of all
            if (!at_end && (part.phase == Phase::forward || after > part.calls.end)) break;
            Divided divided = divide(sums.rest, exchange.offset, exchange.offset + exchange.bytes);
            const std::int64_t calls = at_end ? part.calls.size() : std::max<std::int64_t>(0, after - part.calls.begin);
            sums.exchanges.push_back({next, calls, std::move(divided.inside)});
            sums.rest = std::move(divided.outside);
        }
        result.push_back(std::move(sums));
    }
    return result;
}

std::vector<Turn> turns_of(const Plan& plan, const std::vector<Accumulation>& accumulation) {
    std::vector<Turn> turns;
    const auto part = [&](int index) -> const Part& { return plan.parts[static_cast<std::size_t>(index)]; };
    for (std::size_t i = 0; i < plan.tasks.size(); ++i) {
        const PlannedTask& task = plan.tasks[i];
        const auto comes_first = [&](const Transmission& one) { return one.task == i; };
        const bool goes_on = std::ranges::none_of(plan.transmissions, comes_first) && !turns.empty() &&
                             turns.back().micro_batch == task.micro_batch &&
                             part(turns.back().parts.back()).sends.empty() && part(task.part).receives.empty() &&
                             turns.back().place.frame == task.frame &&
                             part(turns.back().parts.back()).chunk == part(task.part).chunk;
        if (goes_on) {
            turns.back().parts.push_back(task.part);
            continue;
        }
        // What an idle round adds up is written over by the first micro-batch.
        const std::size_t slot =
            task.micro_batch < 0 ? 0 : accumulation[static_cast<std::size_t>(task.micro_batch)].slot;
        const bool last = task.micro_batch + 1 == plan.share.size();
        turns.push_back({{task.part}, task.micro_batch, {slot, task.frame}, i, last, 0});
    }
    std::size_t kinds = 0;
    for (auto turn = turns.begin(); turn != turns.end(); ++turn) {
        const auto merges = [&](const Turn& one) {
            return one.micro_batch < 0 ? Accumulation{} : accumulation[static_cast<std::size_t>(one.micro_batch)];
        };
        const auto same = std::find_if(turns.begin(), turn, [&](const Turn& other) {
            return other.parts == turn->parts && (other.micro_batch < 0) == (turn->micro_batch < 0) &&
                   other.place == turn->place && !turn->last && merges(other) == merges(*turn);
        });
        turn->kind = same != turn ? same->kind : kinds++;
    }
    return turns;
}

} // namespace tessera
