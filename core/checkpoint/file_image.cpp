// SPDX-License-Identifier: Apache-2.0
// Skeletons of HDF5 files, drawn in memory. (libhdf5 asks for a path: it does not take a memfd.)
#include "core/checkpoint/file_image.hpp"

#include "core/watch/job_folder.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fmt/format.h>
#include <unistd.h>

namespace tessera {
namespace {

// The job's own folder in /dev/shm, which its launcher removes, or /dev/shm where there is none.
std::string memory_folder() {
    const std::string parent = "/dev/shm";
    const char* const job = std::getenv(job_variable);
    if (job == nullptr) return parent;
    const std::string own = fmt::format("{}/{}", parent, job);
    std::error_code unknown;
    return std::filesystem::is_directory(own, unknown) ? own : parent;
}

} // namespace

std::uint64_t FileImage::hash() const {
    Hash hash;
    for (const Piece& piece : pieces)
        hash.add(piece.bytes.data(), static_cast<std::int64_t>(piece.bytes.size()));
    return hash.value();
}

void FileImage::put(std::int64_t first, std::string_view text) {
    for (Piece& piece : pieces) {
        const std::int64_t place = first - piece.first;
        if (place < 0 || place + static_cast<std::int64_t>(text.size()) > static_cast<std::int64_t>(piece.bytes.size()))
            continue;
        std::copy(text.begin(), text.end(), piece.bytes.begin() + place);
        return;
    }
    throw InternalError(fmt::format("byte {} of a checkpoint's file is in no piece", first));
}

void FileImage::write(const File& file) const {
    file.resize(bytes);
    for (const Piece& piece : pieces)
        file.write_at(piece.first, piece.bytes.data(), static_cast<std::int64_t>(piece.bytes.size()));
}

Drawing::Drawing(const std::string& path)
    : memory_(File::create_temporary(memory_folder())), path_(fmt::format("{} (drawn in /dev/shm)", path)) {
    hdf5::start();
    const hdf5::Id access = hdf5::file_properties();
    const hid_t file = H5Fcreate(memory_.path().c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access);
    ::unlink(memory_.path().c_str()); // both have it open; a rank that is killed before leaves it to its launcher
    file_ = hdf5::Id(hdf5::check(file, "create the file", path_));
}

FileImage Drawing::finish(const Extents& data) {
    hdf5::close_file(std::move(file_), path_);
    FileImage image;
    image.bytes = memory_.bytes();
    const auto take = [&](std::int64_t first, std::int64_t end) {
        if (first >= end) return;
        FileImage::Piece& piece = image.pieces.emplace_back();
        piece = {first, std::string(static_cast<std::size_t>(end - first), 0)};
        memory_.read_at(first, piece.bytes.data(), end - first);
    };
    std::int64_t position = 0;
    for (const auto& [first, end] : data) {
        take(position, first);
        position = end;
    }
    take(position, image.bytes);
    return image;
}

} // namespace tessera
