// SPDX-License-Identifier: Apache-2.0
// index.h5: virtual datasets over the ranks' files, for h5py, h5dump and h5ls. Nothing here reads it.
#include "core/checkpoint/hdf5.hpp"
#include "core/checkpoint/rank_file.hpp"

#include <cmath>
#include <cstring>
#include <fmt/format.h>
#include <limits>

namespace tessera {
namespace {

using hdf5::check;
using hdf5::Id;

// What shows that a file is missing, where libhdf5 reports nothing.
void set_fill(hid_t layout, DType dtype) {
    const Id type = hdf5::type_of(dtype);
    const float not_a_number = std::numeric_limits<float>::quiet_NaN();
    const BFloat16 short_not_a_number(not_a_number);
    const std::int32_t least = std::numeric_limits<std::int32_t>::min();
    const void* value = &not_a_number;
    if (dtype == DType::bf16) value = &short_not_a_number;
    if (dtype == DType::i32) value = &least;
    H5Pset_fill_value(layout, type, value);
}

void map_slab(hid_t layout, hid_t whole, const Slab& slab, const std::string& file_name, const std::string& path) {
    const Id source = hdf5::space_of(slab.box.count);
    if (slab.box.count.rank() > 0) {
        hsize_t start[Shape::max_rank], count[Shape::max_rank];
        for (int dim = 0; dim < slab.box.count.rank(); ++dim) {
            start[dim] = static_cast<hsize_t>(slab.box.start[static_cast<std::size_t>(dim)]);
            count[dim] = static_cast<hsize_t>(slab.box.count[dim]);
        }
        H5Sselect_hyperslab(whole, H5S_SELECT_SET, start, nullptr, count, nullptr);
    }
    check(H5Pset_virtual(layout, whole, file_name.c_str(), ("/" + slab.dataset).c_str(), source), "map a tensor", path);
}

} // namespace

FileImage draw_index_file(const std::string& path, const Manifest& manifest) {
    Drawing drawing(path);
    const Id links = hdf5::groups_on_the_way();
    hdf5::set_attribute(drawing.file(), "ranks", {manifest.ranks}, drawing.path());
    for (const TensorEntry& tensor : manifest.tensors) {
        const Id whole = hdf5::space_of(tensor.whole);
        const Id layout(H5Pcreate(H5P_DATASET_CREATE));
        set_fill(layout, tensor.dtype);
        for (const Slab& slab : tensor.slabs)
            map_slab(layout, whole, slab, manifest.files[static_cast<std::size_t>(slab.file)].name, drawing.path());
        if (tensor.whole.rank() > 0) H5Sselect_all(whole);
        const std::string create = fmt::format("create tensor '{}'", tensor.name);
        const Id type = hdf5::type_of(tensor.dtype);
        const Id dataset(check(H5Dcreate2(drawing.file(), tensor.name.c_str(), type, whole, links, layout, H5P_DEFAULT),
                               create.c_str(), drawing.path()));
    }
    check(H5Lcreate_external(manifest.files.front().name.c_str(), "/metadata", drawing.file(), "metadata", H5P_DEFAULT,
                             H5P_DEFAULT),
          "link the metadata", drawing.path());
    return drawing.finish({});
}

} // namespace tessera
