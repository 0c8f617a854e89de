// SPDX-License-Identifier: Apache-2.0
// Write, sync, rename.
#include "core/formats/new_file.hpp"

#include "kernels/error.hpp"

#include <filesystem>
#include <fmt/format.h>

namespace tessera {

namespace fs = std::filesystem;

namespace {

File create(const std::string& path, const std::string& unfinished) {
    std::error_code error;
    if (fs::exists(fs::symlink_status(path, error)))
        throw ConfigError(fmt::format("{} is there already: nothing is overwritten", path));
    fs::remove(unfinished, error); // of one that was interrupted
    return File::create(unfinished);
}

} // namespace

NewFile::NewFile(const std::string& path)
    : path_(path), unfinished_(path + ".unfinished"), file_(create(path_, unfinished_)) {}

NewFile::~NewFile() {
    std::error_code ignored; // the failure that led here is reported
    if (!unfinished_.empty()) fs::remove(unfinished_, ignored);
}

void NewFile::write(const void* data, std::int64_t bytes) {
    file_.write_at(end_, data, bytes);
    end_ += bytes;
}

void NewFile::finish() {
    file_.sync();
    file_.close();
    std::error_code error;
    fs::rename(unfinished_, path_, error);
    if (error) throw SystemError(fmt::format("cannot rename {} to {}: {}", unfinished_, path_, error.message()));
    unfinished_.clear();
    const fs::path folder = fs::path(path_).parent_path();
    sync_folder(folder.empty() ? "." : folder.string());
}

} // namespace tessera
