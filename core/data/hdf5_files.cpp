// SPDX-License-Identifier: Apache-2.0
// Files are opened as their samples are asked for, so many at a time.
#include "core/data/hdf5_files.hpp"

#include "core/data/data_error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {
namespace {

constexpr std::size_t most_open_files = 64;

std::string refusal(const Hdf5Files::Source& source, std::size_t field, const std::string& why) {
    return fmt::format("{}: dataset '{}': {}", source.path, source.names[field], why);
}

std::string text_of(const Hdf5Files::Form& form) {
    return fmt::format("{} of {}", form.row.text(), form.bytes ? "bytes" : form.whole_numbers ? "integers" : "floats");
}

std::vector<Hdf5Field> open_fields(const std::string& path, const std::vector<std::string>& names) {
    std::vector<Hdf5Field> fields;
    for (const std::string& name : names)
        fields.emplace_back(path, name);
    return fields;
}

} // namespace

// All files' inputs are bytes, or none's: the two are normalised otherwise. Integers to be found are classes, floats
// numbers.
void Hdf5Files::check_alike(const Source& source, const std::vector<Hdf5Field>& fields) {
    std::vector<Form> forms;
    for (std::size_t i = 0; i < fields.size(); ++i) {
        if (fields[i].rows() != fields[0].rows())
            throw DataError(refusal(source, i,
                                    fmt::format("has {} rows, but '{}' has {} samples", fields[i].rows(),
                                                source.names[0], fields[0].rows())));
        forms.push_back({fields[i].row(), fields[i].whole_numbers(), fields[i].number() == Hdf5Rows::Number::u8});
        const Shape& row = forms[i].row;
        if (i >= inputs_ && row.rank() > (forms[i].whole_numbers ? 0 : 1))
            throw DataError(refusal(source, i,
                                    fmt::format("has {} {} for each sample, expected an integer, which is a class, or "
                                                "floats (N) or (N, K), which are numbers",
                                                row.text(), forms[i].whole_numbers ? "integers" : "floats")));
    }
    if (sources_.empty()) forms_ = forms;
    for (std::size_t i = 0; i < fields.size(); ++i) {
        const Form &found = forms[i], &known = form(i);
        const bool other_numbers =
            i < inputs_ ? found.bytes != known.bytes : found.whole_numbers != known.whole_numbers;
        if (found.row != known.row || other_numbers)
            throw DataError(refusal(
                source, i,
                fmt::format("samples are {}, those of {} {}", text_of(found), sources_[0].path, text_of(known))));
    }
}

std::int64_t Hdf5Files::add(const std::string& path, const std::vector<std::string>& names) {
    const std::vector<Hdf5Field> fields = open_fields(path, names);
    Source source{path, names, 0, fields[0].rows()};
    if (!sources_.empty()) source.begin = sources_.back().begin + sources_.back().rows;
    check_alike(source, fields);
    for (const Hdf5Field& field : fields) {
        source.pieces.push_back(field.piece());
        source.chunks.push_back(field.chunk());
        source.row_bytes.push_back(field.row_bytes());
    }
    sources_.push_back(source);
    return source.begin + source.rows;
}

const Hdf5Files::Source& Hdf5Files::source_of(std::int64_t row) const {
    return *std::prev(std::ranges::upper_bound(sources_, row, {}, &Source::begin));
}

void Hdf5Files::leave_out(std::vector<std::int64_t> rows) {
    left_out_ = std::move(rows);
    gaps_.clear();
    for (std::size_t i = 0; i < left_out_.size(); ++i)
        gaps_.push_back(left_out_[i] - static_cast<std::int64_t>(i));
}

bool Hdf5Files::is_left_out(std::int64_t row) const { return std::ranges::binary_search(left_out_, row); }

std::int64_t Hdf5Files::left_out_before(std::int64_t row) const {
    return std::ranges::lower_bound(left_out_, row) - left_out_.begin();
}

bool Hdf5Files::are_left_out(std::int64_t first, std::int64_t count) const {
    return left_out_before(first + count) - left_out_before(first) == count;
}

std::int64_t Hdf5Files::row_of(std::int64_t sample) const {
    return sample + (std::ranges::upper_bound(gaps_, sample) - gaps_.begin());
}

SampleBlocks Hdf5Files::share_out(std::int64_t bytes, std::int64_t rows) {
    SampleBlocks blocks{sources_[0].pieces[0], 1};
    std::vector<std::int64_t> needed(fields()); // by a block, at most
    for (const Source& source : sources_) {
        if (source.begin >= rows) break;
        for (std::size_t i = 0; i < fields(); ++i) {
            const std::int64_t piece = source.pieces[i], size = blocks.samples;
            const bool aligned =
                left_out_.empty() && source.begin % size == 0 && (size % piece == 0 || piece % size == 0);
            const std::int64_t pieces = aligned ? std::max<std::int64_t>(1, size / piece) : (size - 1) / piece + 2;
            needed[i] = std::max(needed[i], pieces * std::min(piece, source.rows) * source.row_bytes[i]);
        }
    }
    std::int64_t all = 0;
    for (const std::int64_t each : needed)
        all += each;
    blocks.together = std::max<std::int64_t>(1, bytes / all);
    caches_.clear();
    for (const std::int64_t each : needed)
        caches_.emplace_back(blocks.together * each);
    return blocks;
}

const Hdf5Field& Hdf5Files::opened(const Source& source, std::size_t field) {
    auto found = opened_.find(source.begin);
    if (found == opened_.end()) {
        if (opened_.size() == most_open_files)
            opened_.erase(
                std::ranges::min_element(opened_, {}, [](const auto& entry) { return entry.second.last_use; }));
        Opened now{open_fields(source.path, source.names), 0};
        for (std::size_t i = 0; i < now.fields.size(); ++i)
            if (now.fields[i].rows() != source.rows || now.fields[i].row() != form(i).row)
                throw DataError(refusal(source, i, "has changed since the run began"));
        found = opened_.emplace(source.begin, std::move(now)).first;
    }
    found->second.last_use = ++uses_;
    return found->second.fields[field];
}

Hdf5Rows Hdf5Files::read_all(std::size_t field, const Source& source, std::int64_t first, std::int64_t count) {
    return opened(source, field).read(first, count);
}

Hdf5Rows Hdf5Files::read(std::size_t field, const Source& source, std::int64_t first, std::int64_t count) {
    try {
        return read_all(field, source, first, count);
    } catch (const DataError&) {
        if (left_out_.empty()) throw;
    }
    const std::int64_t bytes = source.row_bytes[field], chunk = source.chunks[field];
    Hdf5Rows rows{opened(source, field).number(), std::vector<std::byte>(static_cast<std::size_t>(count * bytes))};
    for (std::int64_t begin = 0; begin < count; begin += chunk) {
        const std::int64_t some = std::min(chunk, count - begin);
        if (are_left_out(source.begin + first + begin, some)) continue;
        std::ranges::copy(read_all(field, source, first + begin, some).bytes, rows.bytes.begin() + begin * bytes);
    }
    return rows;
}

Hdf5Files::Row Hdf5Files::row(std::size_t field, std::int64_t row) {
    const Source& source = source_of(row);
    const std::int64_t size = source.pieces[field], piece = (row - source.begin) / size, first = piece * size;
    const std::int64_t count = std::min(size, source.rows - first);
    return {caches_[field].get({source.begin, piece}, count * source.row_bytes[field],
                               [&] { return read(field, source, first, count); }),
            row - source.begin - first};
}

} // namespace tessera
