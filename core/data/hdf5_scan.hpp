// SPDX-License-Identifier: Apache-2.0
// What is found out about HDF5 files before their samples are read: numbers that are not right, classes, means.
#pragma once

#include "core/data/hdf5_files.hpp"

#include <cmath>
#include <fmt/format.h>

namespace tessera {

// Throws DataError, with file, dataset and the row in this file.
[[noreturn]] void refuse_row(const Hdf5Files& files, std::size_t field, std::int64_t row, const std::string& why);

// What is wrong with a row of this field, of so many values of its type; empty: nothing. `classes`: of whole numbers to
// be found; 0: any up to 16,777,216.
template <class T> std::string fault_of(const Hdf5Files& files, std::size_t field, const T* values, std::int64_t count,
                                        std::int64_t classes) {
    constexpr std::int64_t most_classes = 1 << 24;
    const bool input = field < files.inputs();
    if (!input && files.form(field).whole_numbers) {
        const std::int64_t end = classes > 0 ? classes : most_classes;
        if (*values >= 0 && static_cast<double>(*values) < static_cast<double>(end)) return {};
        return classes > 0 ? fmt::format("the label {} is none of the {} classes", *values, classes)
                           : fmt::format("the label {} is no class from 0 to {}", *values, end - 1);
    }
    for (std::int64_t i = 0; i < count; ++i)
        if (!std::isfinite(input ? static_cast<double>(values[i]) : static_cast<double>(static_cast<float>(values[i]))))
            return "holds a number that is not finite";
    return {};
}

// Reads everything; rows that are not right in some field, or damaged, are counted and left out. `classes`: by field.
void leave_out_broken(Hdf5Files& files, const std::vector<std::int64_t>& classes, RecordErrors& errors);

// All of rows [0, rows) that are samples.
//
// Mean and deviation of an input: of bytes one for all, else of each element; of pieces that are evenly spread where
// there are more than 64 MiB.
InputStatistics find_statistics(Hdf5Files& files, std::size_t field, std::int64_t rows);
// One more than the largest label.
std::int64_t count_classes(Hdf5Files& files, std::size_t field, std::int64_t rows);
// The mean of each number to be found, from pieces that are evenly spread where there are many.
std::vector<double> means_of_targets(Hdf5Files& files, std::size_t field, std::int64_t rows);

} // namespace tessera
