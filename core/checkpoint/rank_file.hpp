// SPDX-License-Identifier: Apache-2.0
// The HDF5 files of a checkpoint: one per rank with slabs of tensors, and the index that shows tensors as wholes. Drawn
// through libhdf5; written and read without it.
#pragma once

#include "core/checkpoint/durable_files.hpp"
#include "core/checkpoint/file_image.hpp"
#include "core/checkpoint/manifest.hpp"

#include <atomic>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace tessera {

// A rank's file without its data. It serves any number of saves whose content has this structure.
struct RankImage {
    std::string structure; // structure_of the content that it was drawn for
    FileImage file;
    Manifest manifest; // of a checkpoint with this one file, without hashes; names tensors that have nothing here
    std::vector<std::pair<std::size_t, std::size_t>> slabs; // tensor and slab of each part that is not empty
    std::map<std::string, std::int64_t> texts;              // first byte of each metadata text; "step": of the step
};

// What of a rank's content the file's layout depends on: all but the data, the step and the metadata's letters.
std::string structure_of(const CheckpointContent& content, bool metadata);

// Draws the file that will be written at `path`: the non-empty parts as contiguous datasets (attributes: whole, start)
// and, with `metadata`, the texts as /metadata/KEY, padded with zeros, and /metadata/step.
RankImage draw_rank_file(const std::string& path, const CheckpointContent& content, bool metadata);

// Creates `path`, synced, with the content that the image was drawn for. Calls no libhdf5. Returns the manifest with
// the hashes of what was in memory. SystemError "given up" when that becomes true meanwhile.
Manifest write_rank_file(const std::string& path, const RankImage& image, const CheckpointContent& content,
                         const std::atomic<bool>& given_up);

// Draws the index of a manifest, which lies in the same folder as the ranks' files: each tensor as a virtual dataset.
// Elements of a missing file are NaN (i32: the least number). It depends on no hash and no step.
FileImage draw_index_file(const std::string& path, const Manifest& manifest);

// A rank's file, open for reading, with one file descriptor. Its size and all bytes outside the slabs are compared with
// the manifest when it is opened (ConfigError). What is read is where the manifest says, whatever HDF5 may make of the
// file: no link and no external storage can lead elsewhere.
class RankFile {
public:
    RankFile(const std::string& path, const Manifest& manifest, int file);

    // Fills `memory` with block `block` of the slab. ConfigError when its hash is another.
    void read_block(const TensorEntry& tensor, const Slab& slab, std::int64_t block, void* memory) const;

    // That it will be read soon: the disk need not wait until the blocks before are looked at.
    void expect_block(const TensorEntry& tensor, const Slab& slab, std::int64_t block) const;

private:
    File file_;
};

} // namespace tessera
