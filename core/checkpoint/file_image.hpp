// SPDX-License-Identifier: Apache-2.0
// An HDF5 file without the data of its tensors. libhdf5 draws it once, in memory; what reaches a disk is written by us,
// because libhdf5 crashes, loses errors and cannot be called by a second thread where we need it most.
#pragma once

#include "core/checkpoint/durable_files.hpp"
#include "core/checkpoint/hdf5.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

// Plain bytes: no libhdf5 is needed to write them.
struct FileImage {
    struct Piece {
        std::int64_t first = 0; // its place in the file
        std::string bytes;
    };
    std::int64_t bytes = 0;    // of the whole file
    std::vector<Piece> pieces; // all that is not data of a tensor, in order

    std::uint64_t hash() const;                          // of all pieces: what hash_outside finds in the file
    void put(std::int64_t first, std::string_view text); // over bytes of one piece
    void write(const File& file) const;
};

// The file while libhdf5 draws it. It lies in /dev/shm without a name: a skeleton of 1.5 GB of tensors takes 300 KB
// there, and a killed process leaves nothing. `path`, where the image will be written, is for messages.
class Drawing {
public:
    explicit Drawing(const std::string& path);

    hid_t file() const { return file_; }
    const std::string& path() const { return path_; }
    FileImage finish(const Extents& data); // `data`: the stretches of tensors

private:
    File memory_;
    std::string path_;
    hdf5::Id file_;
};

} // namespace tessera
