// SPDX-License-Identifier: Apache-2.0
// Datasets filled piece after piece.
#include "core/checkpoint/whole_hdf5.hpp"

#include "core/checkpoint/hdf5.hpp"
#include "core/checkpoint/walk.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {
namespace {

using hdf5::check;
using hdf5::Id;

void write_text(hid_t file, const std::string& name, const std::string& text, const std::string& path) {
    const Id type(H5Tcopy(H5T_C_S1));
    H5Tset_size(type, std::max<std::size_t>(1, text.size())); // a string of no bytes is not allowed
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    const Id space(H5Screate(H5S_SCALAR));
    const Id links = hdf5::groups_on_the_way();
    const Id dataset(check(H5Dcreate2(file, name.c_str(), type, space, links, H5P_DEFAULT, H5P_DEFAULT),
                           "create the metadata", path));
    check(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text.c_str()), "write the metadata", path);
}

void write_piece(hid_t dataset, const TensorPiece& piece, const View& part, const char* action,
                 const std::string& path) {
    const Id memory = hdf5::space_of(part.shape), place(H5Dget_space(dataset)), type = hdf5::type_of(part.dtype);
    if (part.shape.rank() > 0) {
        hsize_t start[Shape::max_rank], count[Shape::max_rank];
        for (int dim = 0; dim < part.shape.rank(); ++dim) {
            start[dim] = static_cast<hsize_t>(piece.box.start[static_cast<std::size_t>(dim)]);
            count[dim] = static_cast<hsize_t>(part.shape[dim]);
        }
        check(H5Sselect_hyperslab(place, H5S_SELECT_SET, start, nullptr, count, nullptr), action, path);
    }
    check(H5Dwrite(dataset, type, memory, place, H5P_DEFAULT, part.data), action, path);
}

} // namespace

void write_whole_hdf5(const Checkpoint& checkpoint, const std::string& path, bool states) {
    hdf5::start();
    Id file = hdf5::create_file(path);
    hdf5::set_attribute(file, "step", {checkpoint.step()}, path);
    for (const auto& [key, value] : checkpoint.metadata())
        write_text(file, "metadata/" + key, value, path);
    const Id links = hdf5::groups_on_the_way(), layout(H5Pcreate(H5P_DATASET_CREATE));
    H5Pset_layout(layout, H5D_CONTIGUOUS);
    H5Pset_fill_time(layout, H5D_FILL_TIME_NEVER);
    for (const SavedTensor& tensor : checkpoint.tensors()) {
        if (!states && is_optimizer_state(tensor.name)) continue;
        const std::string create = fmt::format("create tensor '{}'", tensor.name);
        const std::string write = fmt::format("write tensor '{}'", tensor.name);
        const Id type = hdf5::type_of(tensor.dtype), space = hdf5::space_of(tensor.whole);
        const Id dataset(check(H5Dcreate2(file, tensor.name.c_str(), type, space, links, layout, H5P_DEFAULT),
                               create.c_str(), path));
        read_in_pieces(checkpoint, tensor, [&](const TensorPiece& piece, const View& part) {
            write_piece(dataset, piece, part, write.c_str(), path);
        });
    }
    hdf5::close_file(std::move(file), path);
}

} // namespace tessera
