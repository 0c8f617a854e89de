// SPDX-License-Identifier: Apache-2.0
// Write, sync, rename.
#include "core/formats/new_file.hpp"

#include "kernels/error.hpp"

#include <filesystem>
#include <fmt/format.h>

namespace tessera {

namespace fs = std::filesystem;

NewFile::NewFile(const std::string& path) : path_(path), unfinished_(path + ".unfinished") {
    std::error_code error;
    if (fs::exists(fs::symlink_status(path, error)))
        throw ConfigError(fmt::format("{} is there already: nothing is overwritten", path));
    fs::remove(unfinished_, error); // of one that was interrupted
}

NewFile::~NewFile() {
    std::error_code ignored; // the failure that led here is reported
    if (!unfinished_.empty()) fs::remove(unfinished_, ignored);
}

void NewFile::write(const void* data, std::int64_t bytes) {
    if (!file_) file_.emplace(File::create(unfinished_));
    file_->write({static_cast<const char*>(data), static_cast<std::size_t>(bytes)});
}

void NewFile::finish() {
    if (!file_) file_.emplace(File::open_to_read(unfinished_));
    file_->sync();
    std::error_code error;
    fs::rename(unfinished_, path_, error);
    if (error) throw SystemError(fmt::format("cannot rename {} to {}: {}", unfinished_, path_, error.message()));
    unfinished_.clear();
    const fs::path folder = fs::path(path_).parent_path();
    sync_folder(folder.empty() ? "." : folder.string());
}

} // namespace tessera
