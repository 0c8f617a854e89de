// SPDX-License-Identifier: Apache-2.0
// The HDF5 files of a dataset, one after the other: which rows lie where, and rows of them from a cache.
#pragma once

#include "core/data/dataset.hpp"
#include "core/data/hdf5_field.hpp"
#include "core/data/piece_cache.hpp"

#include <array>
#include <map>

namespace tessera {

enum class Hdf5Side { input, target };

// Samples of all files have one shape each side, and are counted on from file to file.
class Hdf5Files {
public:
    struct Source {
        std::string path;
        std::array<std::string, 2> names; // of the datasets, by Hdf5Side
        std::int64_t begin = 0, rows = 0; // samples
        std::array<std::int64_t, 2> pieces{}, row_bytes{};
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

    // Throws DataError for what does not fit the files before. Returns how many samples there are now.
    std::int64_t add(const std::string& path, const std::string& input, const std::string& target);

    const std::vector<Source>& sources() const { return sources_; }
    const Form& form(Hdf5Side side) const { return forms_[static_cast<std::size_t>(side)]; }
    const Source& source_of(std::int64_t sample) const;

    // How samples [0, samples) lie, and the cache made for it: pieces of so many bytes in all, at least one a side.
    SampleBlocks share_out(std::int64_t bytes, std::int64_t samples);

    // From the cache. Throws DataError for what is damaged. These two are not for two threads at once.
    Row row(Hdf5Side side, std::int64_t sample);
    // Rows [first, first + count) of a source, past the cache.
    Hdf5Rows read(Hdf5Side side, const Source& source, std::int64_t first, std::int64_t count);

private:
    struct Opened {
        std::array<Hdf5Field, 2> fields;
        std::int64_t last_use = 0;
    };

    const Hdf5Field& field(const Source& source, Hdf5Side side);
    void check_alike(const Source& source, const std::array<Hdf5Field, 2>& fields);

    std::vector<Source> sources_;
    std::array<Form, 2> forms_;
    std::map<std::int64_t, Opened> opened_; // by where a source begins
    std::int64_t uses_ = 0;
    std::array<PieceCache<Hdf5Rows>, 2> caches_;
};

} // namespace tessera
