// SPDX-License-Identifier: Apache-2.0
// Files are opened as their samples are asked for, so many at a time.
#include "core/data/hdf5_files.hpp"

#include "core/data/data_error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {
namespace {

constexpr std::size_t most_open_files = 64;
constexpr std::array both_sides = {Hdf5Side::input, Hdf5Side::target};

std::size_t index_of(Hdf5Side side) { return static_cast<std::size_t>(side); }

std::string refusal(const Hdf5Files::Source& source, Hdf5Side side, const std::string& why) {
    return fmt::format("{}: dataset '{}': {}", source.path, source.names[index_of(side)], why);
}

std::string text_of(const Hdf5Files::Form& form) {
    return fmt::format("{} of {}", form.row.text(), form.bytes ? "bytes" : form.whole_numbers ? "integers" : "floats");
}

} // namespace

// All files' inputs are bytes, or none's: the two are normalised otherwise. Integers to be found are classes, floats
// numbers.
void Hdf5Files::check_alike(const Source& source, const std::array<Hdf5Field, 2>& fields) {
    if (fields[0].rows() != fields[1].rows())
        throw DataError(refusal(
            source, Hdf5Side::target,
            fmt::format("has {} rows, but '{}' has {} samples", fields[1].rows(), source.names[0], fields[0].rows())));
    std::array<Form, 2> forms;
    for (std::size_t i = 0; i < 2; ++i)
        forms[i] = {fields[i].row(), fields[i].whole_numbers(), fields[i].number() == Hdf5Rows::Number::u8};
    const Shape& wanted = forms[1].row;
    if (wanted.rank() > (forms[1].whole_numbers ? 0 : 1))
        throw DataError(refusal(source, Hdf5Side::target,
                                fmt::format("has {} {} for each sample, expected an integer, which is a class, or "
                                            "floats (N) or (N, K), which are numbers",
                                            wanted.text(), forms[1].whole_numbers ? "integers" : "floats")));
    if (sources_.empty()) forms_ = forms;
    for (const Hdf5Side side : both_sides) {
        const Form &found = forms[index_of(side)], &known = form(side);
        const bool other_numbers =
            side == Hdf5Side::input ? found.bytes != known.bytes : found.whole_numbers != known.whole_numbers;
        if (found.row != known.row || other_numbers)
            throw DataError(refusal(
                source, side,
                fmt::format("samples are {}, those of {} {}", text_of(found), sources_[0].path, text_of(known))));
    }
}

std::int64_t Hdf5Files::add(const std::string& path, const std::string& input, const std::string& target) {
    const std::array fields = {Hdf5Field(path, input), Hdf5Field(path, target)};
    Source source{path, {input, target}, 0, fields[0].rows(), {}, {}};
    if (!sources_.empty()) source.begin = sources_.back().begin + sources_.back().rows;
    check_alike(source, fields);
    for (std::size_t i = 0; i < 2; ++i) {
        source.pieces[i] = fields[i].piece();
        source.row_bytes[i] = fields[i].row_bytes();
    }
    sources_.push_back(source);
    return source.begin + source.rows;
}

const Hdf5Files::Source& Hdf5Files::source_of(std::int64_t sample) const {
    return *std::prev(std::ranges::upper_bound(sources_, sample, {}, &Source::begin));
}

SampleBlocks Hdf5Files::share_out(std::int64_t bytes, std::int64_t samples) {
    SampleBlocks blocks{sources_[0].pieces[0], 1};
    std::array<std::int64_t, 2> needed{}; // by a block, at most
    for (const Source& source : sources_) {
        if (source.begin >= samples) break;
        for (std::size_t i = 0; i < 2; ++i) {
            const std::int64_t piece = source.pieces[i], size = blocks.samples;
            const bool aligned = source.begin % size == 0 && (size % piece == 0 || piece % size == 0);
            const std::int64_t pieces = aligned ? std::max<std::int64_t>(1, size / piece) : (size - 1) / piece + 2;
            needed[i] = std::max(needed[i], pieces * std::min(piece, source.rows) * source.row_bytes[i]);
        }
    }
    blocks.together = std::max<std::int64_t>(1, bytes / (needed[0] + needed[1]));
    for (std::size_t i = 0; i < 2; ++i)
        caches_[i] = PieceCache<Hdf5Rows>(blocks.together * needed[i]);
    return blocks;
}

const Hdf5Field& Hdf5Files::field(const Source& source, Hdf5Side side) {
    auto found = opened_.find(source.begin);
    if (found == opened_.end()) {
        if (opened_.size() == most_open_files)
            opened_.erase(
                std::ranges::min_element(opened_, {}, [](const auto& entry) { return entry.second.last_use; }));
        Opened opened{{Hdf5Field(source.path, source.names[0]), Hdf5Field(source.path, source.names[1])}, 0};
        for (const Hdf5Side each : both_sides)
            if (opened.fields[index_of(each)].rows() != source.rows ||
                opened.fields[index_of(each)].row() != form(each).row)
                throw DataError(refusal(source, each, "has changed since the run began"));
        found = opened_.emplace(source.begin, std::move(opened)).first;
    }
    found->second.last_use = ++uses_;
    return found->second.fields[index_of(side)];
}

Hdf5Rows Hdf5Files::read(Hdf5Side side, const Source& source, std::int64_t first, std::int64_t count) {
    return field(source, side).read(first, count);
}

Hdf5Files::Row Hdf5Files::row(Hdf5Side side, std::int64_t sample) {
    const Source& source = source_of(sample);
    const std::size_t i = index_of(side);
    const std::int64_t piece = (sample - source.begin) / source.pieces[i], first = piece * source.pieces[i];
    const std::int64_t count = std::min(source.pieces[i], source.rows - first);
    return {caches_[i].get({source.begin, piece}, count * source.row_bytes[i],
                           [&] { return read(side, source, first, count); }),
            sample - source.begin - first};
}

} // namespace tessera
