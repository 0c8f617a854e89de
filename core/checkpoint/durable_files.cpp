// SPDX-License-Identifier: Apache-2.0
// POSIX files with the order of syncs and renames that survives a crash at any instant.
#include "core/checkpoint/durable_files.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const char* action, const std::string& path) {
    throw SystemError(fmt::format("cannot {} {}: {}", action, path, std::strerror(errno)));
}

std::string beside(const std::string& path, const char* prefix) {
    const fs::path place(path);
    return (place.parent_path() / (prefix + place.filename().string())).string();
}

void remove_tree(const std::string& path) {
    std::error_code error;
    fs::remove_all(path, error);
    if (error) throw SystemError(fmt::format("cannot remove {}: {}", path, error.message()));
}

} // namespace

File File::open_to_read(const std::string& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (descriptor < 0) fail("open", path);
    return {descriptor, path};
}

File File::create(const std::string& path) {
    const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (descriptor < 0) fail("create", path);
    return {descriptor, path};
}

File File::open_folder(const std::string& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) fail("open", path);
    return {descriptor, path};
}

std::optional<File> File::open_direct(const std::string& path) {
    const int descriptor = ::open(path.c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC | O_NOFOLLOW);
    if (descriptor >= 0) return File(descriptor, path);
    if (errno == EINVAL) return {}; // tmpfs, for one
    fail("open", path);
}

File File::create_temporary(const std::string& folder) {
    std::string path = (fs::path(folder) / "tessera-XXXXXX").string();
    const int descriptor = ::mkostemp(path.data(), O_CLOEXEC);
    if (descriptor < 0) fail("create a file in", folder);
    return {descriptor, path};
}

File::~File() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

std::int64_t File::bytes() const {
    struct stat status = {};
    if (::fstat(descriptor_, &status) != 0) fail("look at", path_);
    return status.st_size;
}

void File::read_at(std::int64_t position, void* memory, std::int64_t bytes) const {
    auto* place = static_cast<char*>(memory);
    while (bytes > 0) {
        const ssize_t got = ::pread(descriptor_, place, static_cast<std::size_t>(bytes), position);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EIO) // what a disk has lost does not come back: damage, as other bits would be
            throw ConfigError(fmt::format("cannot read {} from byte {} on: {}", path_, position, std::strerror(errno)));
        if (got < 0) fail("read", path_);
        if (got == 0) throw SystemError(fmt::format("cannot read {}: it ends at byte {}", path_, position));
        place += got;
        position += got;
        bytes -= got;
    }
}

void File::expect(std::int64_t position, std::int64_t bytes) const {
    ::posix_fadvise(descriptor_, position, bytes, POSIX_FADV_WILLNEED);
}

void File::write_at(std::int64_t position, const void* memory, std::int64_t bytes) const {
    const auto* place = static_cast<const char*>(memory);
    while (bytes > 0) {
        const ssize_t written = ::pwrite(descriptor_, place, static_cast<std::size_t>(bytes), position);
        if (written < 0 && errno == EINTR) continue;
        if (written == 0) errno = EIO;
        if (written <= 0) fail("write", path_);
        place += written;
        position += written;
        bytes -= written;
    }
}

bool File::write_at_once(std::int64_t position, const void* memory, std::int64_t bytes) const {
    const ssize_t written = ::pwrite(descriptor_, memory, static_cast<std::size_t>(bytes), position);
    if (written < 0 && errno != EINVAL && errno != EINTR) fail("write", path_);
    return written == bytes;
}

void File::resize(std::int64_t bytes) const {
    if (::ftruncate(descriptor_, bytes) != 0) fail("resize", path_);
}

void File::reserve(std::int64_t bytes) const {
    if (bytes == 0) return;
    int failed = 0;
    do
        failed = ::fallocate(descriptor_, 0, 0, bytes);
    while (failed != 0 && errno == EINTR);
    if (failed == 0) return;
    if (errno != EOPNOTSUPP) fail("reserve room for", path_);
    resize(bytes);
}

void File::sync() const {
    if (::fsync(descriptor_) != 0) fail("sync", path_);
}

void File::close() {
    if (::close(std::exchange(descriptor_, -1)) != 0) fail("close", path_);
}

std::uint64_t hash_outside(const File& file, const Extents& extents) {
    Hash hash;
    std::vector<char> piece(1 << 16);
    std::int64_t position = 0;
    const auto add_until = [&](std::int64_t end) {
        while (position < end) {
            const std::int64_t bytes = std::min(end - position, static_cast<std::int64_t>(piece.size()));
            file.read_at(position, piece.data(), bytes);
            hash.add(piece.data(), bytes);
            position += bytes;
        }
    };
    for (const auto& [first, end] : extents) {
        add_until(first);
        position = std::max(position, end);
    }
    add_until(file.bytes());
    return hash.value();
}

void write_synced(const std::string& path, std::string_view text) {
    File file = File::create(path);
    file.write_at(0, text.data(), static_cast<std::int64_t>(text.size()));
    file.sync();
    file.close();
}

void sync_folder(const std::string& path) { File::open_folder(path).sync(); }

void publish_folder(const std::string& from, const std::string& to) {
    const std::string parent = fs::path(to).parent_path().string();
    std::error_code ignored; // `to` is there: what stays of the former one has a name that does not count
    if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) {
        sync_folder(parent);
        fs::remove_all(from, ignored); // now the former one
        return;
    }
    if (errno == ENOENT) { // nothing to replace
        if (std::rename(from.c_str(), to.c_str()) != 0) fail("rename to", to);
        sync_folder(parent);
        return;
    }
    const std::string former = beside(to, ".del-");
    remove_tree(former);
    if (std::rename(to.c_str(), former.c_str()) != 0 && errno != ENOENT) fail("rename", to);
    if (std::rename(from.c_str(), to.c_str()) != 0) {
        const int reason = errno;
        std::rename(former.c_str(), to.c_str()); // back; the first failure is what counts
        errno = reason;
        fail("rename to", to);
    }
    sync_folder(parent);
    fs::remove_all(former, ignored);
}

void remove_folder(const std::string& path) {
    const std::string doomed = beside(path, ".del-");
    remove_tree(doomed);
    if (std::rename(path.c_str(), doomed.c_str()) != 0) fail("rename", path);
    remove_tree(doomed);
}

} // namespace tessera
