// SPDX-License-Identifier: Apache-2.0
// A rank's file: drawn through libhdf5, written by plain writes with hashes taken from memory, read a block at a time.
#include "core/checkpoint/rank_file.hpp"

#include "core/checkpoint/hdf5.hpp"
#include "core/checkpoint/slab_writer.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>

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

// The room of a text in the file: a number that gains a digit needs no other layout.
std::int64_t room_of(const std::string& text) { return static_cast<std::int64_t>(text.size() / 256 + 1) * 256; }

// A contiguous dataset that has its place in the file at once, and is never filled. The place.
std::int64_t draw_dataset(const Drawing& drawing, const std::string& name, hid_t type, hid_t space,
                          const std::function<void(hid_t)>& describe = {}) {
    const Id links = hdf5::groups_on_the_way();
    const Id layout(H5Pcreate(H5P_DATASET_CREATE));
    H5Pset_layout(layout, H5D_CONTIGUOUS);
    H5Pset_alloc_time(layout, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(layout, H5D_FILL_TIME_NEVER);
    const std::string create = fmt::format("create dataset '{}'", name);
    const Id dataset(check(H5Dcreate2(drawing.file(), name.c_str(), type, space, links, layout, H5P_DEFAULT),
                           create.c_str(), drawing.path()));
    if (describe) describe(dataset);
    const haddr_t place = H5Dget_offset(dataset);
    if (place == HADDR_UNDEF) hdf5::fail(create, drawing.path());
    return static_cast<std::int64_t>(place);
}

void draw_metadata(const Drawing& drawing, const CheckpointContent& content, RankImage& image) {
    const Id space(H5Screate(H5S_SCALAR));
    image.texts["step"] = draw_dataset(drawing, "metadata/step", H5T_STD_I64LE, space);
    for (const auto& [key, value] : content.metadata) {
        const Id type(H5Tcopy(H5T_C_S1));
        H5Tset_size(type, static_cast<std::size_t>(room_of(value)));
        H5Tset_strpad(type, H5T_STR_NULLPAD);
        H5Tset_cset(type, H5T_CSET_UTF8);
        image.texts[key] = draw_dataset(drawing, "metadata/" + key, type, space);
    }
}

Slab draw_slab(const Drawing& drawing, const std::string& dataset, const TensorPart& part) {
    const Id type = hdf5::type_of(part.dtype);
    const Id space = hdf5::space_of(part.data.shape);
    Slab slab;
    slab.box = {part.start, part.data.shape};
    slab.dataset = dataset;
    slab.block_hashes.resize(static_cast<std::size_t>(Blocks(part.data.shape, part.dtype).size()));
    slab.first_byte = draw_dataset(drawing, dataset, type, space, [&](hid_t id) {
        if (part.whole.rank() == 0) return;
        hdf5::set_attribute(id, "whole", sizes_of(part.whole), drawing.path());
        hdf5::set_attribute(id, "start", part.start, drawing.path());
    });
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

// Made at every save, while training waits: numbers as they are, and no formatting.
std::string structure_of(const CheckpointContent& content, bool metadata) {
    std::string text;
    const auto add = [&](std::int64_t number) { text.append(reinterpret_cast<const char*>(&number), sizeof number); };
    for (const TensorPart& part : content.tensors) {
        text += part.name;
        add(static_cast<std::int64_t>(part.dtype));
        add(part.whole.rank());
        for (int dim = 0; dim < part.whole.rank(); ++dim)
            add(part.whole[dim]);
        add(static_cast<std::int64_t>(part.start.size()));
        for (const std::int64_t first : part.start)
            add(first);
        add(part.data.shape.rank());
        for (int dim = 0; dim < part.data.shape.rank(); ++dim)
            add(part.data.shape[dim]);
    }
    if (metadata)
        for (const auto& [key, value] : content.metadata) {
            text += key;
            add(room_of(value));
        }
    return text + '.'; // not even that of no tensors is empty
}

RankImage draw_rank_file(const std::string& path, const CheckpointContent& content, bool metadata) {
    RankImage image;
    image.structure = structure_of(content, metadata);
    Manifest& manifest = image.manifest;
    std::map<std::string, std::size_t> places;
    Drawing drawing(path);
    if (metadata) draw_metadata(drawing, content, image);
    for (const TensorPart& part : content.tensors) {
        const auto [place, is_new] = places.emplace(part.name, manifest.tensors.size());
        if (is_new) manifest.tensors.push_back({{part.name, part.whole, part.dtype}, {}});
        std::vector<Slab>& slabs = manifest.tensors[place->second].slabs;
        if (part.data.count() == 0) continue;
        image.slabs.emplace_back(place->second, slabs.size());
        const std::string dataset = slabs.empty() ? part.name : fmt::format("{}#{}", part.name, slabs.size());
        slabs.push_back(draw_slab(drawing, dataset, part));
    }
    image.file = drawing.finish(extents_of(manifest, 0));
    manifest.files.push_back({std::filesystem::path(path).filename().string(), image.file.bytes, 0});
    return image;
}

Manifest write_rank_file(const std::string& path, const RankImage& image, const CheckpointContent& content,
                         const std::atomic<bool>& given_up) {
    Manifest manifest = image.manifest;
    FileImage outside = image.file;
    for (const auto& [key, first] : image.texts)
        if (key != "step") outside.put(first, content.metadata.at(key));
    if (const auto step = image.texts.find("step"); step != image.texts.end())
        outside.put(step->second, {reinterpret_cast<const char*>(&content.step), sizeof content.step});
    File file = File::create(path);
    std::vector<SlabToWrite> slabs;
    auto place = image.slabs.begin();
    for (const TensorPart& part : content.tensors) {
        if (part.data.count() == 0) continue;
        slabs.push_back({part.data, &manifest.tensors[place->first].slabs[place->second]});
        ++place;
    }
    write_slabs(file, outside, slabs, given_up);
    file.sync();
    file.close();
    manifest.files.front().hash = outside.hash();
    return manifest;
}

RankFile::RankFile(const std::string& path, const Manifest& manifest, int file) : file_(File::open_to_read(path)) {
    const FileEntry& entry = manifest.files[static_cast<std::size_t>(file)];
    if (file_.bytes() != entry.bytes)
        throw ConfigError(
            fmt::format("{} has {} bytes, its checkpoint's MANIFEST states {}", path, file_.bytes(), entry.bytes));
    if (hash_outside(file_, extents_of(manifest, file)) != entry.hash)
        throw ConfigError(
            fmt::format("{} is damaged: what is around its tensors does not have the hash in MANIFEST", path));
}

void RankFile::read_block(const TensorEntry& tensor, const Slab& slab, std::int64_t block, void* memory) const {
    const Blocks blocks(slab.box.count, tensor.dtype);
    const std::int64_t bytes = blocks.box(block).count.count() * bytes_of(tensor.dtype);
    file_.read_at(slab.first_byte + blocks.first_byte(block), memory, bytes);
    if (Hash::of(memory, bytes) != slab.block_hashes[static_cast<std::size_t>(block)])
        throw ConfigError(fmt::format("{}: tensor '{}' is damaged: block {} of {} does not have the hash in MANIFEST",
                                      file_.path(), tensor.name, block + 1, slab.block_hashes.size()));
}

void RankFile::expect_block(const TensorEntry& tensor, const Slab& slab, std::int64_t block) const {
    const Blocks blocks(slab.box.count, tensor.dtype);
    file_.expect(slab.first_byte + blocks.first_byte(block), blocks.box(block).count.count() * bytes_of(tensor.dtype));
}

} // namespace tessera
