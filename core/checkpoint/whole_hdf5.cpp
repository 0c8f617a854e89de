// SPDX-License-Identifier: Apache-2.0
// A file drawn as a whole, and its datasets filled piece after piece.
#include "core/checkpoint/whole_hdf5.hpp"

#include "core/checkpoint/file_image.hpp"
#include "core/checkpoint/hdf5.hpp"
#include "core/checkpoint/walk.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <utility>
#include <vector>

namespace tessera {
namespace {

using hdf5::check;
using hdf5::Id;

void draw_text(const Drawing& drawing, const std::string& name, const std::string& text) {
    const Id type(H5Tcopy(H5T_C_S1));
    H5Tset_size(type, std::max<std::size_t>(1, text.size())); // a string of no bytes is not allowed
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    const Id space(H5Screate(H5S_SCALAR)), links = hdf5::groups_on_the_way();
    const Id dataset(check(H5Dcreate2(drawing.file(), name.c_str(), type, space, links, H5P_DEFAULT, H5P_DEFAULT),
                           "create the metadata", drawing.path()));
    check(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text.c_str()), "write the metadata", drawing.path());
}

// A contiguous dataset without data; where these belong in the file.
std::int64_t draw_tensor(const Drawing& drawing, const SavedTensor& tensor) {
    const std::string create = fmt::format("create tensor '{}'", tensor.name);
    const Id type = hdf5::type_of(tensor.dtype), space = hdf5::space_of(tensor.whole);
    const Id links = hdf5::groups_on_the_way(), layout(H5Pcreate(H5P_DATASET_CREATE));
    H5Pset_layout(layout, H5D_CONTIGUOUS);
    H5Pset_alloc_time(layout, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(layout, H5D_FILL_TIME_NEVER);
    const Id dataset(check(H5Dcreate2(drawing.file(), tensor.name.c_str(), type, space, links, layout, H5P_DEFAULT),
                           create.c_str(), drawing.path()));
    if (tensor.whole.count() == 0) return 0;
    const haddr_t place = H5Dget_offset(dataset);
    if (place == HADDR_UNDEF) hdf5::fail(create, drawing.path());
    return static_cast<std::int64_t>(place);
}

} // namespace

void write_whole_hdf5(const Checkpoint& checkpoint, const File& file, bool states) {
    Drawing drawing(file.path());
    for (const auto& [key, value] : checkpoint.metadata())
        if (key != "step") draw_text(drawing, "metadata/" + key, value);
    draw_text(drawing, "metadata/step", fmt::format("{}", checkpoint.step()));
    std::vector<std::pair<SavedTensor, std::int64_t>> places;
    Extents data;
    for (const SavedTensor& tensor : checkpoint.tensors()) {
        if (!states && is_optimizer_state(tensor.name)) continue;
        const std::int64_t place = draw_tensor(drawing, tensor);
        const std::int64_t bytes = tensor.whole.count() * bytes_of(tensor.dtype);
        if (bytes == 0) continue;
        places.emplace_back(tensor, place);
        data.emplace_back(place, place + bytes);
    }
    std::sort(data.begin(), data.end());
    drawing.finish(data).write(file);
    for (const auto& [tensor, place] : places)
        read_in_pieces(checkpoint, tensor, [&, first = place](const TensorPiece& piece, const View& part) {
            file.write_at(first + piece.first * bytes_of(part.dtype), part.data, part.bytes());
        });
}

} // namespace tessera
