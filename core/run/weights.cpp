// SPDX-License-Identifier: Apache-2.0
// Weights and optimizer states by name and box.
#include "core/run/weights.hpp"

#include "core/checkpoint/walk.hpp"
#include "core/optimizers/weight_average.hpp"
#include "core/run/held_part.hpp"
#include "kernels/copy.hpp"
#include "kernels/error.hpp"
#include "kernels/random.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/core.h>

namespace tessera {
namespace {

// A state of no parameter, nor of the model, that the checkpoint has none of.
bool starts_anew(const Checkpoint& checkpoint, const Value& value) {
    return !checkpoint.has(value.name) && is_optimizer_state(value.name) && !value.parameter;
}

// The tensor of the checkpoint that a value is: an average that is missing starts as its weight.
std::string name_there(const Checkpoint& checkpoint, const Value& value, WeightsOf which) {
    if (value.kind == ValueKind::parameter && which == WeightsOf::average)
        if (const std::string average = weight_average_of(value.name); checkpoint.has(average)) return average;
    if (is_weight_average(value.name) && !checkpoint.has(value.name)) return std::string(averaged_weight(value.name));
    return value.name;
}

void start_state(const Value& value, const View& view, Stream& stream) {
    HostCopy copy(stream, view);
    std::fill_n(copy.view().as<float>(), copy.view().count(), value.start);
    copy.store();
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

// What a rank holds of a tensor, as boxes one behind the other in its memory.
struct Piece {
    Box box;
    std::int64_t first; // element in the memory
};

std::vector<Piece> pieces_of(const PlannedValue& value) {
    std::vector<Piece> pieces;
    std::int64_t first = 0;
    for (Box& box : boxes_of_run(value.box, value.run)) {
        const std::int64_t count = box.count();
        pieces.push_back({std::move(box), first});
        first += count;
    }
    return pieces;
}

// The same without the rows of padding behind the tensor that the world outside knows.
std::vector<Piece> pieces_outside(const Value& value, const PlannedValue& planned) {
    std::vector<Piece> pieces = pieces_of(planned);
    if (value.type.shape.rank() == 0) return pieces;
    const std::int64_t rows = value.shape_outside()[0];
    for (Piece& piece : pieces) {
        Range& range = piece.box.ranges[0];
        range = {std::min(range.begin, rows), std::min(range.end, rows)};
    }
    std::erase_if(pieces, [](const Piece& piece) { return piece.box.count() == 0; });
    return pieces;
}

std::vector<std::int64_t> start_of(const Box& box) {
    std::vector<std::int64_t> start;
    for (const Range& range : box.ranges)
        start.push_back(range.begin);
    return start;
}

View view_from(const View& view, std::int64_t first, const Shape& shape) {
    if (view.memory() == nullptr) return {nullptr, shape, view.dtype};
    return {static_cast<std::byte*>(view.memory()) + first * bytes_of(view.dtype), shape, view.dtype};
}

// Which of the ranks that hold the same box a rank is.
struct Copy {
    int number = 0;
    int count = 1;
};

Copy copy_of(const PlannedValue& value, const Mesh& mesh, int rank) {
    const std::vector<int> coordinate = mesh.coordinate(rank);
    Copy copy;
    for (std::size_t axis = 0; axis < value.placements.size(); ++axis) {
        if (value.placements[axis] != Placement::replicate()) continue;
        const int size = mesh.axis(static_cast<int>(axis)).size;
        copy = {copy.number * size + coordinate[axis], copy.count * size};
    }
    return copy;
}

// Along the first dim, what several ranks hold alike is shared out among them; runs are left to the first.
std::vector<Piece> pieces_to_save(const Value& value, const PlannedValue& planned, Copy copy) {
    std::vector<Piece> pieces = pieces_outside(value, planned);
    if (copy.count == 1) return pieces;
    if (pieces.size() != 1 || pieces[0].box.ranges.empty()) return copy.number == 0 ? pieces : std::vector<Piece>();
    Range& rows = pieces[0].box.ranges[0];
    const std::int64_t row = pieces[0].box.count() / std::max<std::int64_t>(rows.size(), 1);
    const Range own = shard_range(rows.size(), copy.count, copy.number);
    rows = {rows.begin + own.begin, rows.begin + own.end};
    pieces[0].first = own.begin * row;
    return pieces;
}

} // namespace

std::vector<ValueId> persistent_values(const Graph& graph) {
    std::vector<ValueId> ids = graph.of_kind(ValueKind::parameter);
    const std::vector<ValueId> states = graph.of_kind(ValueKind::optimizer_state);
    ids.insert(ids.end(), states.begin(), states.end());
    return ids;
}

void initialize_weights(const Program& program, const Executor& executor, std::uint64_t seed) {
    const Graph& graph = program.model.graph;
    for (const ValueId id : graph.of_kind(ValueKind::parameter)) {
        const Value& value = graph.value(id);
        const Initialization start = value.parameter->start;
        const std::int64_t end = value.shape_outside().count(); // padding lies behind
        const RandomKey key = random_key(seed, value.name);
        HostCopy copy(executor.stream(), executor.view(id));
        float* data = copy.view().as<float>();
        const auto start_run = [&](std::int64_t in_whole, float* run, std::int64_t length) {
            const std::int64_t count = std::clamp<std::int64_t>(end - in_whole, 0, length);
            std::fill_n(run + count, length - count, 0.0f);
            if (start.deviation == 0)
                std::fill_n(run, count, static_cast<float>(start.constant));
            else
                fill_normal(View(run, {count}, DType::f32), key, static_cast<float>(start.constant),
                            static_cast<float>(start.deviation), static_cast<std::uint64_t>(in_whole));
        };
        for (const Piece& piece : pieces_of(program.plan.value(id)))
            for_each_run(value.type.shape, piece.box,
                         [&](std::int64_t in_whole, std::int64_t in_box, std::int64_t count) {
                             start_run(in_whole, data + piece.first + in_box, count);
                         });
        copy.store();
    }
}

void initialize_states(const Program& program, const Executor& executor) {
    const Graph& graph = program.model.graph;
    for (const ValueId id : graph.of_kind(ValueKind::optimizer_state)) {
        const Value& value = graph.value(id);
        if (value.parameter) continue; // memory starts at 0, and so do these
        start_state(value, executor.view(id), executor.stream());
    }
}

void start_averages(const Program& program, const Executor& executor) {
    const Graph& graph = program.model.graph;
    for (const ValueId id : graph.of_kind(ValueKind::optimizer_state)) {
        const std::string& name = graph.value(id).name;
        if (!is_weight_average(name)) continue;
        const View weight = view_at_rest(executor, program.plan, graph.named(averaged_weight(name)));
        std::visit([&](auto& stream) { kernels::cast(stream, weight, executor.view(id)); }, executor.stream());
    }
}

ViewOf planned(const Program& program) {
    return [&program](ValueId id) {
        const TensorType type = program.plan.seen(id, Phase::backward);
        return View(nullptr, type.shape, type.dtype);
    };
}

std::vector<TensorPart> parts_to_save(const Program& program, const ViewOf& view_of, int rank) {
    const Graph& graph = program.model.graph;
    std::vector<TensorPart> parts;
    for (const ValueId id : persistent_values(graph)) {
        const Value& value = graph.value(id);
        const View view = view_of(id);
        const PlannedValue& planned = program.plan.value(id);
        for (const Piece& piece : pieces_to_save(value, planned, copy_of(planned, program.layout.mesh, rank)))
            parts.push_back({value.name, value.shape_outside(), value.type.dtype, start_of(piece.box),
                             view_from(view, piece.first, piece.box.shape())});
    }
    return parts;
}

void require_tensors(const Checkpoint& checkpoint, const Program& program) {
    const Graph& graph = program.model.graph;
    for (const ValueId id : persistent_values(graph)) {
        const Value& value = graph.value(id);
        if (starts_anew(checkpoint, value)) continue;
        const std::string there = name_there(checkpoint, value, WeightsOf::last_step);
        if (!checkpoint.has(there))
            throw ConfigError(fmt::format("checkpoint {} has no tensor '{}', which the model or its optimizer needs",
                                          checkpoint.folder(), value.name));
        checkpoint.require(there, value.shape_outside(), value.type.dtype);
    }
}

bool has_averages(const Checkpoint& checkpoint) {
    return std::ranges::any_of(checkpoint.tensors(), is_weight_average, &SavedTensor::name);
}

void require_averages(const Checkpoint& checkpoint) {
    if (!has_averages(checkpoint))
        throw ConfigError(fmt::format("checkpoint {} has no averages of its weights, as {} keeps them",
                                      checkpoint.folder(), training_ema_decay.name));
}

void fill_held(const Program& program, ValueId id, const View& view, Stream& stream,
               const std::function<void(const std::vector<std::int64_t>&, const View&)>& read) {
    HostCopy copy(stream, view);
    const View all = copy.view();
    std::memset(all.memory(), 0, static_cast<std::size_t>(all.bytes())); // the padding
    for (const Piece& piece : pieces_outside(program.model.graph.value(id), program.plan.value(id)))
        read(start_of(piece.box), view_from(all, piece.first, piece.box.shape()));
    copy.store();
}

std::vector<std::string> restore_tensors(const Checkpoint& checkpoint, const Program& program, const ViewOf& view_of,
                                         Stream& stream, WeightsOf which) {
    require_tensors(checkpoint, program);
    if (which == WeightsOf::average) require_averages(checkpoint);
    const Graph& graph = program.model.graph;
    std::vector<std::string> started;
    bool averages_start = false;
    for (const ValueId id : persistent_values(graph)) {
        const Value& value = graph.value(id);
        if (starts_anew(checkpoint, value)) {
            start_state(value, view_of(id), stream);
            started.push_back(value.name);
            continue;
        }
        const std::string there = name_there(checkpoint, value, which);
        fill_held(program, id, view_of(id), stream, [&](const std::vector<std::int64_t>& start, const View& part) {
            checkpoint.read(there, start, part);
        });
        averages_start = averages_start || (value.kind == ValueKind::optimizer_state && there != value.name);
    }
    if (averages_start) started.push_back(std::string(weight_average) + "*");
    return started;
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
    const auto all = [&communicator, &stream](bool word) {
        std::int32_t least = word ? 1 : 0;
        communicator.all_reduce(stream, View(&least, {}, DType::i32), Reduction::min);
        return least == 1;
    };
    return {communicator.rank(), communicator.size(), gather, broadcast, all};
}

} // namespace tessera
