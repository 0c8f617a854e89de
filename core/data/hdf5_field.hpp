// SPDX-License-Identifier: Apache-2.0
// A dataset in an HDF5 file whose rows are samples: what it holds, checked, and rows of it as numbers in memory.
#pragma once

#include "core/checkpoint/hdf5.hpp"
#include "kernels/tensor.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

// Rows in memory, one after the other, in the smallest of these types that holds what the file has.
struct Hdf5Rows {
    enum class Number { u8, i32, i64, u64, f32, f64 };

    Number number = Number::u8;
    std::vector<std::byte> bytes;

    // work(const T*) with the numbers' own type.
    template <class Work> decltype(auto) with_values(const Work& work) const {
        const void* data = bytes.data();
        switch (number) {
        case Number::u8:
            return work(static_cast<const std::uint8_t*>(data));
        case Number::i32:
            return work(static_cast<const std::int32_t*>(data));
        case Number::i64:
            return work(static_cast<const std::int64_t*>(data));
        case Number::u64:
            return work(static_cast<const std::uint64_t*>(data));
        case Number::f32:
            return work(static_cast<const float*>(data));
        case Number::f64:
            break;
        }
        return work(static_cast<const double*>(data));
    }
};

// Not for two threads at once; different ones are, as libhdf5 has a lock of its own.
class Hdf5Field {
public:
    // Throws DataError, with file and dataset, for what cannot be read as samples: no HDF5 file, none of this name,
    // texts or structures, a filter that is not there. ConfigError where libhdf5 was built without its lock.
    Hdf5Field(const std::string& path, const std::string& name);

    std::int64_t rows() const { return rows_; }
    const Shape& row() const { return row_; } // its shape; () where there is one number each
    bool whole_numbers() const { return whole_numbers_; }
    Hdf5Rows::Number number() const { return number_; }
    std::int64_t row_bytes() const; // in memory

    // Rows that are best read together, from a multiple of them on: no chunk is decoded twice, and 64 KiB are worth a
    // call.
    std::int64_t piece() const { return piece_; }
    std::int64_t chunk() const { return chunk_; } // rows that are stored together: a part of a piece

    // Throws DataError for a damaged chunk.
    Hdf5Rows read(std::int64_t first, std::int64_t count) const;

private:
    [[noreturn]] void refuse(const std::string& why) const;
    void open();
    void find_numbers();
    void find_shape();
    void find_piece();

    std::string path_, name_;
    hdf5::Id file_, dataset_; // in this order: a dataset keeps its file open
    std::int64_t rows_ = 0, piece_ = 1, chunk_ = 1;
    Shape row_;
    bool whole_numbers_ = false;
    Hdf5Rows::Number number_ = Hdf5Rows::Number::u8;
};

} // namespace tessera
