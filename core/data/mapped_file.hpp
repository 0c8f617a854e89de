// SPDX-License-Identifier: Apache-2.0
// Files to read: patterns turned into paths, and a file's bytes as memory.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// The bytes of a regular file, mapped for reading: pages come from the disk when they are first read. The file must not
// shrink while it is mapped. Move-only; empty after a move.
class MappedFile {
public:
    // Throws DataError where a person can help: no such file, no permission, a directory or a device, an empty file.
    explicit MappedFile(std::string path);
    MappedFile(MappedFile&& other) noexcept;
    MappedFile& operator=(MappedFile&& other) noexcept;
    ~MappedFile();

    const std::string& path() const { return path_; }
    std::span<const std::byte> bytes() const { return bytes_; }
    std::string_view text() const { return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()}; }

private:
    std::string path_;
    std::span<const std::byte> bytes_;
};

// Each path as it is; each pattern (* ? [ ]) that is no file itself as the paths that match, in ascending byte order.
// Throws DataError for a pattern that matches nothing.
std::vector<std::string> matching_paths(const std::vector<std::string>& patterns);

} // namespace tessera
