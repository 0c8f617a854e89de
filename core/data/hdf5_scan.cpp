// SPDX-License-Identifier: Apache-2.0
// Walks over the pieces of a field, file by file.
#include "core/data/hdf5_scan.hpp"

#include "core/data/data_error.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <set>

namespace tessera {
namespace {

using Source = Hdf5Files::Source;

constexpr std::int64_t bytes_for_statistics = 64 << 20;

// The sums of one element, or of one that stands for all, sample after sample (Welford 1962).
struct Running {
    double mean = 0, squares = 0; // of the distance to it
    void add(double value, double count) {
        const double distance = value - mean;
        mean += distance / count;
        squares += distance * (value - mean);
    }
};

// work(row, its first value) for the rows [first, first + count) of a source that are samples.
template <class Work> void for_each_row(Hdf5Files& files, std::size_t field, const Source& source, std::int64_t first,
                                        std::int64_t count, const Work& work) {
    const std::int64_t elements = files.form(field).row.count();
    files.read(field, source, first, count).with_values([&](const auto* values) {
        for (std::int64_t i = 0; i < count; ++i, values += elements)
            if (const std::int64_t row = source.begin + first + i; !files.is_left_out(row)) work(row, values);
    });
}

// work(source, first row in it, rows) for each piece of rows [0, rows).
template <class Work>
void for_each_piece(const Hdf5Files& files, std::size_t field, std::int64_t rows, const Work& work) {
    for (const Source& source : files.sources()) {
        const std::int64_t end = std::min(source.rows, rows - source.begin);
        for (std::int64_t first = 0; first < end; first += source.pieces[field])
            work(source, first, std::min(source.pieces[field], end - first));
    }
}

class Scan {
public:
    Scan(Hdf5Files& files, const std::vector<std::int64_t>& classes, RecordErrors& errors)
        : files_(files), classes_(classes), errors_(errors) {}

    void piece(std::size_t field, const Source& source, std::int64_t first, std::int64_t count) {
        try {
            look_at(field, source, first, count);
        } catch (const DataError& error) {
            const std::int64_t chunk = source.chunks[field];
            if (count <= chunk) return damaged(source.begin + first, count, error.what());
            for (std::int64_t begin = first; begin < first + count; begin += chunk)
                piece(field, source, begin, std::min(chunk, first + count - begin));
        }
    }

    std::vector<std::int64_t> broken() const { return {broken_.begin(), broken_.end()}; }

private:
    void look_at(std::size_t field, const Source& source, std::int64_t first, std::int64_t count) {
        const std::int64_t elements = files_.form(field).row.count();
        files_.read_all(field, source, first, count).with_values([&](const auto* values) {
            for (std::int64_t row = source.begin + first; row < source.begin + first + count; ++row, values += elements)
                errors_of(field, row, fault_of(files_, field, values, elements, classes_[field]));
        });
    }

    void errors_of(std::size_t field, std::int64_t row, const std::string& why) {
        if (why.empty() || !broken_.insert(row).second) return;
        errors_.attempt("sample", [&] { refuse_row(files_, field, row, why); });
    }

    void damaged(std::int64_t begin, std::int64_t count, const std::string& sentence) {
        for (std::int64_t row = begin; row < begin + count; ++row)
            if (broken_.insert(row).second) errors_.count("sample", sentence);
    }

    Hdf5Files& files_;
    const std::vector<std::int64_t>& classes_;
    RecordErrors& errors_;
    std::set<std::int64_t> broken_;
};

} // namespace

void refuse_row(const Hdf5Files& files, std::size_t field, std::int64_t row, const std::string& why) {
    const Source& source = files.source_of(row);
    throw DataError(
        fmt::format("{}: dataset '{}', sample {}: {}", source.path, source.names[field], row - source.begin, why));
}

void leave_out_broken(Hdf5Files& files, const std::vector<std::int64_t>& classes, RecordErrors& errors) {
    Scan scan(files, classes, errors);
    const std::int64_t rows = files.sources().back().begin + files.sources().back().rows;
    for (std::size_t field = 0; field < files.fields(); ++field)
        for_each_piece(files, field, rows, [&](const Source& source, std::int64_t first, std::int64_t count) {
            scan.piece(field, source, first, count);
        });
    files.leave_out(scan.broken());
}

// Whether any of a piece's rows is left.
static bool has_rows(const Hdf5Files& files, const Source& source, std::int64_t first, std::int64_t count) {
    const std::int64_t begin = source.begin + first;
    return files.left_out_before(begin + count) - files.left_out_before(begin) < count;
}

InputStatistics find_statistics(Hdf5Files& files, std::size_t field, std::int64_t rows) {
    std::int64_t pieces = 0, piece = 0, next = 0;
    for_each_piece(files, field, rows, [&](const Source& source, std::int64_t first, std::int64_t count) {
        if (has_rows(files, source, first, count)) ++pieces;
    });
    if (pieces == 0)
        throw DataError(fmt::format("{}: no sample is left to find statistics of", files.sources()[0].path));
    const Source& any = files.sources()[0];
    const std::int64_t bytes = std::min(any.pieces[field], any.rows) * any.row_bytes[field];
    const std::int64_t looked_at = std::clamp<std::int64_t>(bytes_for_statistics / bytes, 1, pieces);
    const auto elements = static_cast<std::size_t>(files.form(field).row.count());
    std::vector<Running> spreads(files.form(field).bytes ? 1 : elements);
    double seen = 0; // values of each
    for_each_piece(files, field, rows, [&](const Source& source, std::int64_t first, std::int64_t count) {
        if (!has_rows(files, source, first, count) || piece++ != next * pieces / looked_at) return;
        ++next;
        for_each_row(files, field, source, first, count, [&](std::int64_t row, const auto* values) {
            const std::string fault = fault_of(files, field, values, static_cast<std::int64_t>(elements), 0);
            if (!fault.empty()) refuse_row(files, field, row, fault);
            for (std::size_t i = 0; i < elements; ++i) {
                if (i == 0 || spreads.size() == 1) ++seen;
                spreads[i % spreads.size()].add(static_cast<double>(values[i]), seen);
            }
        });
    });
    InputStatistics found;
    for (const Running& spread : spreads) {
        found.means.push_back(spread.mean);
        found.deviations.push_back(seen > 0 ? std::sqrt(spread.squares / seen) : 0);
    }
    return found;
}

std::int64_t count_classes(Hdf5Files& files, std::size_t field, std::int64_t rows) {
    std::int64_t classes = 0;
    for_each_piece(files, field, rows, [&](const Source& source, std::int64_t first, std::int64_t count) {
        for_each_row(files, field, source, first, count, [&](std::int64_t row, const auto* label) {
            const std::string fault = fault_of(files, field, label, 1, 0);
            if (!fault.empty()) refuse_row(files, field, row, fault);
            classes = std::max(classes, static_cast<std::int64_t>(*label) + 1);
        });
    });
    return classes;
}

std::vector<double> means_of_targets(Hdf5Files& files, std::size_t field, std::int64_t rows) {
    const auto columns = static_cast<std::size_t>(files.form(field).row.count());
    const std::int64_t every = rows * files.sources()[0].row_bytes[field] / bytes_for_statistics + 1;
    std::vector<double> sums(columns);
    std::int64_t piece = 0, seen = 0;
    for_each_piece(files, field, rows, [&](const Source& source, std::int64_t first, std::int64_t count) {
        if (!has_rows(files, source, first, count) || piece++ % every != 0) return;
        for_each_row(files, field, source, first, count, [&](std::int64_t row, const auto* values) {
            const std::string fault = fault_of(files, field, values, static_cast<std::int64_t>(columns), 0);
            if (!fault.empty()) refuse_row(files, field, row, fault);
            for (std::size_t i = 0; i < columns; ++i)
                sums[i] += static_cast<double>(values[i]);
            ++seen;
        });
    });
    for (double& sum : sums)
        sum /= static_cast<double>(std::max<std::int64_t>(seen, 1));
    return sums;
}

} // namespace tessera
