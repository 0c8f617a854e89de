// SPDX-License-Identifier: Apache-2.0
// The HDF5 files of a dataset, one after the other: which rows lie where, and rows of them from a cache.
#pragma once

#include "core/data/dataset.hpp"
#include "core/data/hdf5_field.hpp"
#include "core/data/piece_cache.hpp"

#include <map>

namespace tessera {

// Rows of all files have one shape each field, and are counted on from file to file. Fields are datasets of a file by
// their place: the inputs, then what is to be found. Some rows may be left out: samples are the others.
class Hdf5Files {
public:
    struct Source {
        std::string path;
        std::vector<std::string> names; // of the datasets, by field
        std::int64_t begin = 0, rows = 0;
        std::vector<std::int64_t> pieces{}, chunks{}, row_bytes{}; // by field; pieces and chunks in rows
    };
    // Of what all have alike.
    struct Form {
        Shape row;
        bool whole_numbers = false, bytes = false;
    };
    struct Row {
        std::shared_ptr<const Hdf5Rows> rows;
        std::int64_t number = 0; // in them
    };

    explicit Hdf5Files(std::size_t inputs = 1) : inputs_(inputs) {}

    // Throws DataError for what does not fit the files before. Returns how many rows there are now.
    std::int64_t add(const std::string& path, const std::vector<std::string>& names);

    std::size_t inputs() const { return inputs_; }
    std::size_t fields() const { return forms_.size(); }
    const std::vector<Source>& sources() const { return sources_; }
    const Form& form(std::size_t field) const { return forms_[field]; }
    const Source& source_of(std::int64_t row) const;

    // Says once, before samples are asked for, which rows are none, in ascending order.
    void leave_out(std::vector<std::int64_t> rows);
    bool is_left_out(std::int64_t row) const;
    std::int64_t left_out_before(std::int64_t row) const;
    std::int64_t row_of(std::int64_t sample) const; // its row among all rows

    // How rows [0, rows) lie, and the cache made for it: pieces of so many bytes in all, at least one a field.
    SampleBlocks share_out(std::int64_t bytes, std::int64_t rows);

    // From the cache. Throws DataError for what is damaged. These two are not for two threads at once.
    Row row(std::size_t field, std::int64_t row);
    // Rows [first, first + count) of a source, past the cache. Where chunks are damaged whose rows are all left out:
    // zeros in their place.
    Hdf5Rows read(std::size_t field, const Source& source, std::int64_t first, std::int64_t count);
    // As it is in the file, from a multiple of the chunk on.
    Hdf5Rows read_all(std::size_t field, const Source& source, std::int64_t first, std::int64_t count);

private:
    struct Opened {
        std::vector<Hdf5Field> fields;
        std::int64_t last_use = 0;
    };

    const Hdf5Field& opened(const Source& source, std::size_t field);
    void check_alike(const Source& source, const std::vector<Hdf5Field>& fields);
    bool are_left_out(std::int64_t first, std::int64_t count) const;

    std::size_t inputs_;
    std::vector<Source> sources_;
    std::vector<Form> forms_;
    std::vector<std::int64_t> left_out_;    // ascending
    std::vector<std::int64_t> gaps_;        // of each of those: how many samples come before it
    std::map<std::int64_t, Opened> opened_; // by where a source begins
    std::int64_t uses_ = 0;
    std::vector<PieceCache<Hdf5Rows>> caches_;
};

} // namespace tessera
