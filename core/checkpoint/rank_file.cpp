// SPDX-License-Identifier: Apache-2.0
// A rank's HDF5 file: written through libhdf5 with hashes taken from memory; read a block at a time.
#include "core/checkpoint/rank_file.hpp"

#include "core/checkpoint/hdf5.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <filesystem>
#include <fmt/format.h>
#include <map>

namespace tessera {
namespace {

using hdf5::check;
using hdf5::Id;

std::vector<std::int64_t> sizes_of(const Shape& shape) {
    std::vector<std::int64_t> sizes;
    for (int dim = 0; dim < shape.rank(); ++dim)
        sizes.push_back(shape[dim]);
    return sizes;
}

std::vector<std::uint64_t> hash_blocks(const ConstView& data) {
    const Blocks blocks(data.shape, data.dtype);
    std::vector<std::uint64_t> hashes;
    for (std::int64_t block = 0; block < blocks.size(); ++block)
        hashes.push_back(Hash::of(static_cast<const std::byte*>(data.data) + blocks.first_byte(block),
                                  blocks.box(block).count.count() * bytes_of(data.dtype)));
    return hashes;
}

void write_metadata(hid_t file, const CheckpointContent& content, const std::string& path) {
    const Id links = hdf5::groups_on_the_way();
    for (const auto& [key, value] : content.metadata) {
        const Id type(H5Tcopy(H5T_C_S1));
        H5Tset_size(type, std::max<std::size_t>(1, value.size())); // a string of no bytes is not allowed
        H5Tset_strpad(type, H5T_STR_NULLPAD);
        H5Tset_cset(type, H5T_CSET_UTF8);
        const Id space(H5Screate(H5S_SCALAR));
        const Id dataset(
            check(H5Dcreate2(file, ("metadata/" + key).c_str(), type, space, links, H5P_DEFAULT, H5P_DEFAULT),
                  "create the metadata", path));
        check(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, value.c_str()), "write the metadata", path);
    }
}

Slab write_slab(hid_t file, const std::string& dataset_name, const TensorPart& part, const std::string& path) {
    const Id type = hdf5::type_of(part.dtype);
    const Id space = hdf5::space_of(part.data.shape);
    const Id links = hdf5::groups_on_the_way();
    const Id layout(H5Pcreate(H5P_DATASET_CREATE));
    H5Pset_layout(layout, H5D_CONTIGUOUS);
    H5Pset_alloc_time(layout, H5D_ALLOC_TIME_EARLY); // so that it has a place in the file at once
    H5Pset_fill_time(layout, H5D_FILL_TIME_NEVER);
    const std::string create = fmt::format("create tensor '{}'", dataset_name);
    const Id dataset(
        check(H5Dcreate2(file, dataset_name.c_str(), type, space, links, layout, H5P_DEFAULT), create.c_str(), path));
    if (part.whole.rank() > 0) {
        hdf5::set_attribute(dataset, "whole", sizes_of(part.whole), path);
        hdf5::set_attribute(dataset, "start", part.start, path);
    }
    const std::string write = fmt::format("write tensor '{}'", dataset_name);
    check(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, part.data.data), write.c_str(), path);
    Slab slab;
    slab.box = {part.start, part.data.shape};
    slab.dataset = dataset_name;
    slab.block_hashes = hash_blocks(part.data);
    slab.first_byte = static_cast<std::int64_t>(H5Dget_offset(dataset));
    if (slab.first_byte < 0) hdf5::fail(write, path);
    return slab;
}

Extents extents_of(const Manifest& manifest, int file) {
    Extents extents;
    for (const TensorEntry& tensor : manifest.tensors)
        for (const Slab& slab : tensor.slabs)
            if (slab.file == file)
                extents.emplace_back(slab.first_byte,
                                     slab.first_byte + slab.box.count.count() * bytes_of(tensor.dtype));
    std::sort(extents.begin(), extents.end());
    return extents;
}

} // namespace

Manifest write_rank_file(const std::string& path, const CheckpointContent& content, bool metadata) {
    hdf5::start();
    Manifest manifest;
    std::map<std::string, std::size_t> places;
    Id file = hdf5::create_file(path);
    const File on_disk = File::open_to_read(path); // from now on, so that its sync reports every failed write
    hdf5::set_attribute(file, "step", {content.step}, path);
    if (metadata) write_metadata(file, content, path);
    for (const TensorPart& part : content.tensors) {
        const auto [place, is_new] = places.emplace(part.name, manifest.tensors.size());
        if (is_new) manifest.tensors.push_back({{part.name, part.whole, part.dtype}, {}});
        std::vector<Slab>& slabs = manifest.tensors[place->second].slabs;
        if (part.data.count() == 0) continue;
        const std::string dataset = slabs.empty() ? part.name : fmt::format("{}#{}", part.name, slabs.size());
        slabs.push_back(write_slab(file, dataset, part, path));
    }
    hdf5::close_file(std::move(file), path);
    on_disk.sync();
    manifest.files.push_back({std::filesystem::path(path).filename().string(), on_disk.bytes(),
                              hash_outside(on_disk, extents_of(manifest, 0))});
    return manifest;
}

struct RankFile::Open {
    std::string path;
    Id file;
    const Slab* slab = nullptr; // the one whose dataset is open
    Id dataset;
};

RankFile::RankFile(const std::string& path, const Manifest& manifest, int file) {
    hdf5::start();
    const FileEntry& entry = manifest.files[static_cast<std::size_t>(file)];
    const File bytes = File::open_to_read(path); // closed again: libhdf5 has a descriptor of its own
    if (bytes.bytes() != entry.bytes)
        throw ConfigError(
            fmt::format("{} has {} bytes, its checkpoint's MANIFEST states {}", path, bytes.bytes(), entry.bytes));
    if (hash_outside(bytes, extents_of(manifest, file)) != entry.hash)
        throw ConfigError(
            fmt::format("{} is damaged: what is around its tensors does not have the hash in MANIFEST", path));
    const Id access = hdf5::file_properties();
    Id opened(check(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access), "open the file", path));
    open_ = std::make_unique<Open>(Open{path, std::move(opened), nullptr, Id()});
}

RankFile::RankFile(RankFile&&) noexcept = default;
RankFile::~RankFile() = default;

namespace {

// A dataset is opened only if every link on its path is a plain one and its data lies where the manifest says: a
// crafted file could otherwise lead to any other file of the system.
Id open_dataset(hid_t file, const TensorEntry& tensor, const Slab& slab, const std::string& path) {
    const auto refuse = [&](const char* reason) {
        throw ConfigError(fmt::format("{}: tensor '{}' (dataset {}) {}", path, tensor.name, slab.dataset, reason));
    };
    for (std::size_t end = 0; end != std::string::npos;) {
        end = slab.dataset.find('/', end + 1);
        H5L_info_t link;
        if (H5Lget_info(file, slab.dataset.substr(0, end).c_str(), &link, H5P_DEFAULT) < 0) refuse("is missing");
        if (link.type != H5L_TYPE_HARD) refuse("is a link to elsewhere");
    }
    Id dataset(H5Dopen2(file, slab.dataset.c_str(), H5P_DEFAULT));
    if (dataset < 0) refuse("is not a dataset");
    const Id layout(H5Dget_create_plist(dataset));
    if (H5Pget_layout(layout) != H5D_CONTIGUOUS || H5Pget_external_count(layout) != 0)
        refuse("is not stored in this file");
    const Id type(H5Dget_type(dataset));
    if (H5Tequal(type, hdf5::type_of(tensor.dtype)) <= 0) refuse("has another type than MANIFEST states");
    const Id space(H5Dget_space(dataset));
    if (H5Sextent_equal(space, hdf5::space_of(slab.box.count)) <= 0) refuse("has another shape than MANIFEST states");
    if (static_cast<std::int64_t>(H5Dget_offset(dataset)) != slab.first_byte)
        refuse("lies at another place than MANIFEST states");
    return dataset;
}

} // namespace

void RankFile::read_block(const TensorEntry& tensor, const Slab& slab, std::int64_t block, void* memory) {
    hdf5::start();
    if (open_->slab != &slab) {
        open_->dataset = open_dataset(open_->file, tensor, slab, open_->path);
        open_->slab = &slab;
    }
    const TensorBox box = Blocks(slab.box.count, tensor.dtype).box(block);
    const Id memory_space = hdf5::space_of(box.count);
    const Id file_space(H5Dget_space(open_->dataset));
    if (box.count.rank() > 0) {
        hsize_t start[Shape::max_rank], count[Shape::max_rank];
        for (int dim = 0; dim < box.count.rank(); ++dim) {
            start[dim] = static_cast<hsize_t>(box.start[static_cast<std::size_t>(dim)]);
            count[dim] = static_cast<hsize_t>(box.count[dim]);
        }
        H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, nullptr, count, nullptr);
    }
    const Id type = hdf5::type_of(tensor.dtype);
    if (H5Dread(open_->dataset, type, memory_space, file_space, H5P_DEFAULT, memory) < 0)
        hdf5::fail(fmt::format("read tensor '{}'", tensor.name), open_->path);
    if (Hash::of(memory, box.count.count() * bytes_of(tensor.dtype)) !=
        slab.block_hashes[static_cast<std::size_t>(block)])
        throw ConfigError(fmt::format("{}: tensor '{}' is damaged: block {} of {} does not have the hash in MANIFEST",
                                      open_->path, tensor.name, block + 1, slab.block_hashes.size()));
}

} // namespace tessera
