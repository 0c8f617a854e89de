// SPDX-License-Identifier: Apache-2.0
// The HDF5 files of a checkpoint: one per rank with slabs of tensors, and the index that shows tensors as wholes.
#pragma once

#include "core/checkpoint/durable_files.hpp"
#include "core/checkpoint/manifest.hpp"

#include <memory>
#include <string>

namespace tessera {

// Creates `path` with the non-empty parts as contiguous datasets (attributes: whole, start) and, with `metadata`, the
// texts as /metadata/KEY; synced. Returns what a MANIFEST says of it, as that of a checkpoint with this one file; a
// tensor with nothing here is mentioned without slabs.
Manifest write_rank_file(const std::string& path, const CheckpointContent& content, bool metadata);

// Creates `path` with each tensor as a virtual dataset over the files of the manifest, which lie in the same folder.
// Elements of a missing file are NaN (i32: the least number). Returns its entry; synced.
FileEntry write_index_file(const std::string& path, const Manifest& manifest);

// A rank's file, open for reading, with one file descriptor. Before libhdf5 sees it, its size and all bytes outside the
// slabs are compared with the manifest (ConfigError), so that a damaged file never reaches libhdf5's parser.
class RankFile {
public:
    RankFile(const std::string& path, const Manifest& manifest, int file);
    RankFile(RankFile&&) noexcept;
    ~RankFile();

    // Fills `memory` with block `block` of the slab. ConfigError when its hash is another.
    void read_block(const TensorEntry& tensor, const Slab& slab, std::int64_t block, void* memory);

private:
    struct Open;
    std::unique_ptr<Open> open_;
};

} // namespace tessera
