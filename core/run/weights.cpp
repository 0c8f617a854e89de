// SPDX-License-Identifier: Apache-2.0
// Weights and optimizer states by name and box.
#include "core/run/weights.hpp"

#include "kernels/error.hpp"
#include "kernels/random.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/core.h>

namespace tessera {
namespace {

std::vector<ValueId> persistent_values(const Graph& graph) {
    std::vector<ValueId> ids = graph.of_kind(ValueKind::parameter);
    const std::vector<ValueId> states = graph.of_kind(ValueKind::optimizer_state);
    ids.insert(ids.end(), states.begin(), states.end());
    return ids;
}

// Calls visit(first element in the whole tensor, first element in the box, count) for each run of elements of `box`
// that lies together in a tensor of shape `whole`.
void for_each_run(const Shape& whole, const Box& box,
                  const std::function<void(std::int64_t, std::int64_t, std::int64_t)>& visit) {
    const Shape part = box.shape();
    if (part.count() == 0) return;
    int inner = whole.rank(); // dims [inner, rank) are whole in the box
    while (inner > 0 && part[inner - 1] == whole[inner - 1])
        --inner;
    const int first = std::max(inner - 1, 0); // a run spans the box's range of this dim
    const std::int64_t run = part.count(first, part.rank());
    for (std::int64_t index = 0; index < part.count() / run; ++index) {
        std::int64_t rest = index;
        std::int64_t at = whole.rank() == 0 ? 0
                                            : box.ranges[static_cast<std::size_t>(first)].begin *
                                                  whole.count(first + 1, whole.rank());
        for (int dim = first - 1; dim >= 0; --dim) {
            at += (box.ranges[static_cast<std::size_t>(dim)].begin + rest % part[dim]) *
                  whole.count(dim + 1, whole.rank());
            rest /= part[dim];
        }
        visit(at, index * run, run);
    }
}

// Text as whole words: views have no type for bytes.
std::vector<std::int32_t> words_of(const std::string& text) {
    std::vector<std::int32_t> words((text.size() + 3) / 4);
    std::memcpy(words.data(), text.data(), text.size());
    return words;
}

View view_of_words(const std::vector<std::int32_t>& words) {
    return {const_cast<std::int32_t*>(words.data()), {static_cast<std::int64_t>(words.size())}, DType::i32};
}

bool same_on_all_ranks(const PlannedValue& value) {
    return std::all_of(value.placements.begin(), value.placements.end(),
                       [](Placement placement) { return placement == Placement::replicate(); });
}

} // namespace

void initialize_weights(const Program& program, const Executor& executor, std::uint64_t seed) {
    const Graph& graph = program.model.graph;
    for (const ValueId id : graph.of_kind(ValueKind::parameter)) {
        const Value& value = graph.value(id);
        const Initialization start = value.parameter->start;
        const std::int64_t end = value.shape_outside().count(); // padding lies behind
        const RandomKey key = random_key(seed, value.name);
        HostCopy copy(executor.stream(), executor.view(id));
        float* data = copy.view().as<float>();
        for_each_run(value.type.shape, program.plan.value(id).box,
                     [&](std::int64_t in_whole, std::int64_t in_box, std::int64_t length) {
                         const std::int64_t count = std::clamp<std::int64_t>(end - in_whole, 0, length);
                         std::fill_n(data + in_box + count, length - count, 0.0f);
                         const View run(data + in_box, {count}, DType::f32);
                         if (start.deviation == 0)
                             std::fill_n(data + in_box, count, static_cast<float>(start.constant));
                         else
                             fill_normal(run, key, static_cast<float>(start.constant),
                                         static_cast<float>(start.deviation), static_cast<std::uint64_t>(in_whole));
                     });
        copy.store();
    }
}

void initialize_states(const Program& program, const Executor& executor) {
    const Graph& graph = program.model.graph;
    for (const ValueId id : graph.of_kind(ValueKind::optimizer_state)) {
        const Value& value = graph.value(id);
        if (value.parameter) continue; // memory starts at 0, and so do these
        HostCopy copy(executor.stream(), executor.view(id));
        std::fill_n(copy.view().as<float>(), copy.view().count(), value.start);
        copy.store();
    }
}

SavedState state_to_save(const Program& program, const Executor& executor, int rank) {
    const Graph& graph = program.model.graph;
    SavedState state;
    std::vector<TensorPart>& parts = state.parts;
    for (const ValueId id : persistent_values(graph)) {
        const Value& value = graph.value(id);
        const Shape whole = value.shape_outside();
        if (!same_on_all_ranks(program.plan.value(id)))
            throw InternalError(fmt::format("'{}' is sharded: no rule says which rank saves what", value.name));
        const auto add = [&](const std::vector<std::int64_t>& start, const View& part) {
            HostCopy& copy = state.copies.emplace_back(executor.stream(), part);
            copy.load();
            parts.push_back({value.name, whole, value.type.dtype, start, copy.view()});
        };
        const View view = executor.view(id);
        if (whole.rank() == 0) {
            if (rank == 0) add({}, view);
            continue;
        }
        const Range rows = shard_range(whole[0], program.layout.mesh.size(), rank);
        Shape shape = whole;
        shape.set(0, rows.size());
        std::vector<std::int64_t> start(static_cast<std::size_t>(whole.rank()));
        start[0] = rows.begin;
        auto* first = static_cast<std::byte*>(view.memory()) +
                      rows.begin * whole.count(1, whole.rank()) * bytes_of(value.type.dtype);
        add(start, View(first, shape, value.type.dtype));
    }
    return state;
}

void restore_tensors(const Checkpoint& checkpoint, const Program& program, const Executor& executor) {
    const Graph& graph = program.model.graph;
    for (const ValueId id : persistent_values(graph)) {
        const Value& value = graph.value(id);
        if (!checkpoint.has(value.name))
            throw ConfigError(fmt::format("checkpoint {} has no tensor '{}', which the model or its optimizer needs",
                                          checkpoint.folder(), value.name));
        std::vector<std::int64_t> start;
        for (const Range& range : program.plan.value(id).box.ranges)
            start.push_back(range.begin);
        checkpoint.require(value.name, value.shape_outside(), value.type.dtype);
        HostCopy copy(executor.stream(), executor.view(id));
        const View all = copy.view();
        std::memset(all.memory(), 0, static_cast<std::size_t>(all.bytes())); // the padding
        View saved = all;
        if (value.type.shape.rank() > 0)
            saved.shape.set(0, std::clamp<std::int64_t>(value.shape_outside()[0] - start[0], 0, all.shape[0]));
        if (saved.count() > 0) checkpoint.read(value.name, start, saved);
        copy.store();
    }
}

Team team_of(Communicator& communicator, Stream& stream) {
    const auto exchange_sizes = [&communicator,
                                 &stream](std::int64_t bytes) { // in two words: views have no 64-bit type
        const std::array<std::int32_t, 2> mine{static_cast<std::int32_t>(bytes >> 31),
                                               static_cast<std::int32_t>(bytes & 0x7fffffff)};
        std::vector<std::int32_t> words(2 * static_cast<std::size_t>(communicator.size()));
        communicator.all_gather(stream, ConstView{mine.data(), {1, 2}, DType::i32},
                                View(words.data(), {communicator.size(), 2}, DType::i32));
        std::vector<std::int64_t> sizes;
        for (std::size_t rank = 0; rank < words.size() / 2; ++rank)
            sizes.push_back((static_cast<std::int64_t>(words[2 * rank]) << 31) | words[2 * rank + 1]);
        return sizes;
    };
    const auto gather = [&communicator, &stream, exchange_sizes](const std::string& text) {
        const std::vector<std::int64_t> sizes = exchange_sizes(static_cast<std::int64_t>(text.size()));
        std::vector<std::string> texts;
        if (communicator.rank() != 0) {
            const std::vector<std::int32_t> words = words_of(text);
            communicator.send(stream, view_of_words(words), 0);
            return texts;
        }
        texts.push_back(text);
        for (int rank = 1; rank < communicator.size(); ++rank) {
            const std::int64_t size = sizes[static_cast<std::size_t>(rank)];
            std::vector<std::int32_t> words(static_cast<std::size_t>((size + 3) / 4));
            communicator.receive(stream, view_of_words(words), rank);
            texts.emplace_back(reinterpret_cast<const char*>(words.data()), static_cast<std::size_t>(size));
        }
        return texts;
    };
    const auto broadcast = [&communicator, &stream, exchange_sizes](const std::string& text) {
        const auto size = static_cast<std::size_t>(exchange_sizes(static_cast<std::int64_t>(text.size()))[0]);
        std::vector<std::int32_t> words = words_of(text);
        words.resize((size + 3) / 4);
        communicator.broadcast(stream, view_of_words(words), 0);
        return std::string(reinterpret_cast<const char*>(words.data()), size);
    };
    return {communicator.rank(), communicator.size(), gather, broadcast};
}

} // namespace tessera
