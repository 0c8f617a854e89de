// SPDX-License-Identifier: Apache-2.0
// What a dataset holds is asked of libhdf5 once. Its own cache of chunks is off: a piece is whole chunks.
#include "core/data/hdf5_field.hpp"

#include "core/data/data_error.hpp"
#include "core/data/mapped_file.hpp"
#include "core/visible.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <utility>

namespace tessera {
namespace {

using hdf5::Id;
using Number = Hdf5Rows::Number;

constexpr std::int64_t worth_a_call = 64 << 10;
constexpr std::int64_t most_elements = std::int64_t{1} << 30;    // of a sample
constexpr std::int64_t most_piece_bytes = std::int64_t{1} << 31; // of it in memory
constexpr std::size_t most_names = 1000;                         // that a refusal looks at

void start() {
    hdf5::start();
    hbool_t safe = false;
    if (H5is_library_threadsafe(&safe) < 0 || !safe)
        throw ConfigError("the reader 'hdf5' needs a libhdf5 that was built thread-safe, and this one was not: "
                          "checkpoints are written while data are read");
}

std::int64_t bytes_of(Number number) {
    switch (number) {
    case Number::u8:
        return 1;
    case Number::i32:
    case Number::f32:
        return 4;
    case Number::i64:
    case Number::u64:
    case Number::f64:
        break;
    }
    return 8;
}

hid_t memory_type(Number number) {
    switch (number) {
    case Number::u8:
        return H5T_NATIVE_UINT8;
    case Number::i32:
        return H5T_NATIVE_INT32;
    case Number::i64:
        return H5T_NATIVE_INT64;
    case Number::u64:
        return H5T_NATIVE_UINT64;
    case Number::f32:
        return H5T_NATIVE_FLOAT;
    case Number::f64:
        break;
    }
    return H5T_NATIVE_DOUBLE;
}

std::string_view name_of_class(H5T_class_t type) {
    switch (type) {
    case H5T_STRING:
        return "texts";
    case H5T_COMPOUND:
        return "structures";
    case H5T_ENUM:
        return "an enumeration (h5py's bool is one)";
    case H5T_VLEN:
        return "rows of different lengths";
    case H5T_ARRAY:
        return "arrays as elements";
    case H5T_REFERENCE:
        return "references";
    default:
        return "bits without a type";
    }
}

// A template, because the type of `info` goes by the version of libhdf5.
template <class Info> herr_t note_dataset(hid_t, const char* name, const Info* info, void* found) {
    auto& names = *static_cast<std::vector<std::string>*>(found);
    if (info->type == H5O_TYPE_DATASET) names.push_back("/" + visible(name));
    return names.size() < most_names ? 0 : 1;
}

// The dataset, or -1.
hid_t open_dataset_of(hid_t file, const std::string& name) {
    const Id access(H5Pcreate(H5P_DATASET_ACCESS));
    H5Pset_chunk_cache(access, 0, 0, H5D_CHUNK_CACHE_W0_DEFAULT);
    return H5Dopen2(file, name.c_str(), access);
}

} // namespace

Hdf5Field::Hdf5Field(const std::string& path, const std::string& name) : path_(path), name_(name) {
    start();
    open();
    find_shape();
    find_numbers();
    find_piece();
    if (H5Dget_storage_size(dataset_) == 0) refuse("holds no data: nothing was ever written to it");
}

void Hdf5Field::refuse(const std::string& why) const {
    throw DataError(fmt::format("{}: dataset '{}': {}", path_, name_, why));
}

void Hdf5Field::open() {
    { const MappedFile looked_at(path_); } // no such file, a folder, …
    if (H5Fis_hdf5(path_.c_str()) <= 0) throw DataError(fmt::format("{}: is no HDF5 file", path_));
    const Id access(H5Pcreate(H5P_FILE_ACCESS));
    H5Pset_file_locking(access, false, true); // NFS and Lustre often have none
    file_ = Id(H5Fopen(path_.c_str(), H5F_ACC_RDONLY, access));
    if (file_ < 0) throw DataError(fmt::format("{}: cannot be opened as HDF5: {}", path_, hdf5::reason_of_failure()));
    dataset_ = Id(open_dataset_of(file_, name_));
    if (dataset_ >= 0) return;
    std::vector<std::string> names;
    H5Ovisit2(file_, H5_INDEX_NAME, H5_ITER_INC, note_dataset, &names, H5O_INFO_BASIC);
    throw DataError(fmt::format("{}: {}", path_,
                                names.empty() ? fmt::format("holds no dataset, '{}' is asked for", name_)
                                              : no_such_name("dataset", name_, {names.begin(), names.end()})));
}

void Hdf5Field::find_shape() {
    const Id space(H5Dget_space(dataset_));
    const int rank = H5Sget_simple_extent_ndims(space);
    if (rank < 1 || H5Sget_simple_extent_type(space) != H5S_SIMPLE) refuse("has no dim of samples, expected (N, …)");
    if (rank > Shape::max_rank - 1) refuse(fmt::format("has {} dims, expected at most {}", rank, Shape::max_rank - 1));
    hsize_t sizes[Shape::max_rank];
    H5Sget_simple_extent_dims(space, sizes, nullptr);
    std::int64_t elements = 1;
    for (int dim = 1; dim < rank; ++dim) {
        if (sizes[dim] == 0) refuse(fmt::format("its dim {} is 0", dim));
        if (sizes[dim] > static_cast<hsize_t>(most_elements / elements))
            refuse(fmt::format("a sample has more than {} elements", most_elements));
        elements *= static_cast<std::int64_t>(sizes[dim]);
        row_.append(static_cast<std::int64_t>(sizes[dim]));
    }
    if (sizes[0] == 0) refuse("has no samples");
    if (sizes[0] > hsize_t{1} << 56) refuse(fmt::format("says that it has {} samples", sizes[0]));
    rows_ = static_cast<std::int64_t>(sizes[0]);
}

void Hdf5Field::find_numbers() {
    const Id type(H5Dget_type(dataset_));
    const H5T_class_t found = H5Tget_class(type);
    if (found != H5T_INTEGER && found != H5T_FLOAT)
        refuse(fmt::format("holds {}, expected integers or floats", name_of_class(found)));
    const std::size_t bytes = H5Tget_size(type);
    whole_numbers_ = found == H5T_INTEGER;
    const bool positive = whole_numbers_ && H5Tget_sign(type) == H5T_SGN_NONE;
    if (!whole_numbers_)
        number_ = bytes > 4 ? Number::f64 : Number::f32;
    else if (bytes > 8)
        refuse(fmt::format("holds integers of {} bytes, expected at most 8", bytes));
    else if (positive)
        number_ = bytes == 1 ? Number::u8 : bytes < 4 ? Number::i32 : Number::u64;
    else
        number_ = bytes > 4 ? Number::i64 : Number::i32;
}

void Hdf5Field::find_piece() {
    const Id properties(H5Dget_create_plist(dataset_));
    const H5D_layout_t layout = H5Pget_layout(properties);
    if (layout == H5D_VIRTUAL) refuse("is a virtual dataset: name the files that hold its data");
    for (int i = 0; i < H5Pget_nfilters(properties); ++i) {
        unsigned flags = 0;
        std::size_t values = 0;
        char name[64] = "";
        const H5Z_filter_t filter =
            H5Pget_filter2(properties, static_cast<unsigned>(i), &flags, &values, nullptr, sizeof name, name, nullptr);
        if (H5Zfilter_avail(filter) <= 0)
            refuse(fmt::format("is compressed by filter {} ('{}'), which this libhdf5 does not have", filter,
                               visible(std::string(name, strnlen(name, sizeof name)))));
    }
    if (layout == H5D_CHUNKED) {
        hsize_t sizes[Shape::max_rank];
        H5Pget_chunk(properties, Shape::max_rank, sizes);
        piece_ = std::min(rows_, static_cast<std::int64_t>(sizes[0]));
    }
    if (piece_ > most_piece_bytes / row_bytes())
        refuse(fmt::format("its chunks reach over {} samples of {} bytes, which are decoded together: expected at most "
                           "{} bytes",
                           piece_, row_bytes(), most_piece_bytes));
    chunk_ = piece_;
    piece_ *= std::max<std::int64_t>(1, worth_a_call / (piece_ * row_bytes()));
}

std::int64_t Hdf5Field::row_bytes() const { return row_.count() * bytes_of(number_); }

Hdf5Rows Hdf5Field::read(std::int64_t first, std::int64_t count) const {
    hsize_t begin[Shape::max_rank] = {}, sizes[Shape::max_rank];
    begin[0] = static_cast<hsize_t>(first);
    sizes[0] = static_cast<hsize_t>(count);
    for (int dim = 0; dim < row_.rank(); ++dim)
        sizes[dim + 1] = static_cast<hsize_t>(row_[dim]);
    const Id in_file(H5Dget_space(dataset_)), in_memory(H5Screate_simple(row_.rank() + 1, sizes, nullptr));
    Hdf5Rows rows{number_, std::vector<std::byte>(static_cast<std::size_t>(count * row_bytes()))};
    if (H5Sselect_hyperslab(in_file, H5S_SELECT_SET, begin, nullptr, sizes, nullptr) < 0 ||
        H5Dread(dataset_, memory_type(number_), in_memory, in_file, H5P_DEFAULT, rows.bytes.data()) < 0)
        refuse(fmt::format("samples {} to {} cannot be read: {}", first, first + count - 1, hdf5::reason_of_failure()));
    return rows;
}

} // namespace tessera
