// SPDX-License-Identifier: Apache-2.0
// A file that is there whole or not at all.
#pragma once

#include "core/checkpoint/durable_files.hpp"

#include <string>

namespace tessera {

// Written as PATH.unfinished; finish() syncs it and gives it its name. Without that it is removed again.
class NewFile {
public:
    explicit NewFile(const std::string& path); // ConfigError when there is one already
    NewFile(const NewFile&) = delete;
    NewFile& operator=(const NewFile&) = delete;
    ~NewFile();

    const File& file() const { return file_; }
    void write(const void* data, std::int64_t bytes); // behind what is there
    void finish();

private:
    std::string path_, unfinished_;
    File file_;
    std::int64_t end_ = 0; // of what write() has written
};

} // namespace tessera
