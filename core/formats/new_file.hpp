// SPDX-License-Identifier: Apache-2.0
// A file that is there whole or not at all.
#pragma once

#include "core/checkpoint/durable_files.hpp"

#include <optional>
#include <string>
#include <string_view>

namespace tessera {

// Written as PATH.unfinished; finish() syncs it and gives it its name. Without that it is removed again.
class NewFile {
public:
    explicit NewFile(const std::string& path); // ConfigError when there is one already
    NewFile(const NewFile&) = delete;
    NewFile& operator=(const NewFile&) = delete;
    ~NewFile();

    const std::string& unfinished_path() const { return unfinished_; }
    void write(const void* data, std::int64_t bytes); // behind what is there
    void finish();

private:
    std::string path_, unfinished_;
    std::optional<File> file_; // open from the first write on: until then another library may write it
};

} // namespace tessera
