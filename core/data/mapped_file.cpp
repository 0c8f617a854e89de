// SPDX-License-Identifier: Apache-2.0
// open, fstat, mmap, glob; each refusal names the path.
#include "core/data/mapped_file.hpp"

#include "core/data/data_error.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <glob.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace tessera {
namespace {

struct Descriptor {
    int number;
    ~Descriptor() {
        if (number >= 0) close(number);
    }
};

struct Glob {
    glob_t found{};
    ~Glob() { globfree(&found); }
};

[[noreturn]] void cannot_open(const std::string& path, int error) {
    if (error == ENOENT) throw DataError(fmt::format("{}: there is no such file", path));
    if (error == EACCES) throw DataError(fmt::format("{}: no permission to read this file", path));
    throw SystemError(fmt::format("{}: cannot open the file: {}", path, std::strerror(error)));
}

} // namespace

MappedFile::MappedFile(std::string path) : path_(std::move(path)) {
    // Not blocking: a pipe without a writer would wait here before it can be refused.
    const Descriptor file{open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (file.number < 0) cannot_open(path_, errno);
    struct stat status {};
    if (fstat(file.number, &status) != 0)
        throw SystemError(fmt::format("{}: cannot ask for the file's size: {}", path_, std::strerror(errno)));
    if (S_ISDIR(status.st_mode)) throw DataError(fmt::format("{}: this is a directory, expected a file", path_));
    if (!S_ISREG(status.st_mode)) throw DataError(fmt::format("{}: this is no regular file", path_));
    if (status.st_size == 0) throw DataError(fmt::format("{}: the file is empty", path_));
    const auto size = static_cast<std::size_t>(status.st_size);
    void* memory = mmap(nullptr, size, PROT_READ, MAP_SHARED, file.number, 0);
    if (memory == MAP_FAILED)
        throw SystemError(fmt::format("{}: cannot map the file's {} bytes: {}", path_, size, std::strerror(errno)));
    bytes_ = {static_cast<const std::byte*>(memory), size};
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(bytes_, other.bytes_);
    return *this;
}

MappedFile::~MappedFile() {
    if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

std::vector<std::string> matching_paths(const std::vector<std::string>& patterns) {
    std::vector<std::string> paths;
    for (const std::string& pattern : patterns) {
        std::error_code ignored; // a path that cannot be looked at is reported when it is opened
        const bool is_pattern = pattern.find_first_of("*?[") != std::string::npos;
        if (!is_pattern || std::filesystem::exists(pattern, ignored)) {
            paths.push_back(pattern);
            continue;
        }
        Glob names;
        if (glob(pattern.c_str(), GLOB_NOSORT, nullptr, &names.found) != 0)
            throw DataError(fmt::format("{}: no file matches this pattern", pattern));
        const auto first = paths.insert(paths.end(), names.found.gl_pathv, names.found.gl_pathv + names.found.gl_pathc);
        std::sort(first, paths.end());
    }
    return paths;
}

} // namespace tessera
