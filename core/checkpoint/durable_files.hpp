// SPDX-License-Identifier: Apache-2.0
// Files and folders that are on disk when a function returns. Everything throws SystemError with path and reason.
#pragma once

#include "core/checkpoint/manifest.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tessera {

// An open file descriptor.
class File {
public:
    static File open_to_read(const std::string& path); // refuses a symbolic link at the end of the path
    static File create(const std::string& path);       // refuses an existing file
    static File open_folder(const std::string& path);
    static std::optional<File> open_direct(const std::string& path); // to write past the cache; nothing: it cannot be
    static File create_temporary(const std::string& folder);         // under a name of its own, to read and write
    File(File&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)), path_(std::move(other.path_)) {}
    File& operator=(File&& other) noexcept {
        std::swap(descriptor_, other.descriptor_);
        std::swap(path_, other.path_);
        return *this;
    }
    ~File();

    const std::string& path() const { return path_; }
    std::int64_t bytes() const;
    void read_at(std::int64_t position, void* memory, std::int64_t bytes) const; // throws when the file ends before
    void expect(std::int64_t position, std::int64_t bytes) const;                // advice: these will be read soon
    void write_at(std::int64_t position, const void* memory, std::int64_t bytes) const;
    // False when the file system does not take these bytes past the cache: nothing or some of it was written.
    bool write_at_once(std::int64_t position, const void* memory, std::int64_t bytes) const;
    void resize(std::int64_t bytes) const;  // new bytes are 0
    void reserve(std::int64_t bytes) const; // the same, with room on the disk where the file system can tell
    void sync() const;
    void close(); // some systems tell only here that a write has failed

private:
    File(int descriptor, std::string path) : descriptor_(descriptor), path_(std::move(path)) {}

    int descriptor_ = -1;
    std::string path_;
};

// Stretches of a file, as (first byte, end), sorted and apart.
using Extents = std::vector<std::pair<std::int64_t, std::int64_t>>;

// The hash of all bytes of the file that are in none of the extents.
std::uint64_t hash_outside(const File& file, const Extents& extents);

void write_synced(const std::string& path, std::string_view text);
void sync_folder(const std::string& path);

// Puts the complete folder `from` in the place of `to`, which may exist: then, where the file system can (not on NFS),
// they are exchanged in one step, so that there is a complete `to` at any instant. The former `to` is removed.
void publish_folder(const std::string& from, const std::string& to);

// Renames to .del-… first, so that no half-removed folder has a name that counts.
void remove_folder(const std::string& path);

} // namespace tessera
