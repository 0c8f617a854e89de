// SPDX-License-Identifier: Apache-2.0
// A file's bytes from its begin to its end, unpacked where it is gzip's.
#pragma once

#include "core/data/mapped_file.hpp"

#include <memory>

namespace tessera {

class UnpackedFile {
public:
    explicit UnpackedFile(const std::string& path); // throws as MappedFile does
    ~UnpackedFile();
    UnpackedFile(const UnpackedFile&) = delete;
    UnpackedFile& operator=(const UnpackedFile&) = delete;

    const std::string& path() const { return file_.path(); }
    // Fills `to`; fewer bytes at the end of the file only. Returns how many. Throws DataError for a packed file that
    // is damaged or cut off.
    std::size_t read(std::span<std::byte> to);

private:
    struct Unpacking;
    MappedFile file_;
    std::size_t taken_ = 0;
    std::unique_ptr<Unpacking> unpacking_; // null: the file is not packed
};

} // namespace tessera
