// SPDX-License-Identifier: Apache-2.0
// TextFile over POSIX descriptors, and the replacement of a file by write, synchronize and rename.
#include "core/run/text_file.hpp"

#include "kernels/error.hpp"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <utility>

namespace tessera {
namespace {

[[noreturn]] void fail(const char* what, const std::filesystem::path& path) {
    throw SystemError(fmt::format("cannot {} {}: {}", what, path.string(), std::strerror(errno)));
}

} // namespace

TextFile::TextFile(std::filesystem::path path, Mode mode) : path_(std::move(path)) {
    const int start = mode == Mode::append ? O_APPEND : O_TRUNC;
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | start, 0666);
    if (descriptor_ < 0) fail("open", path_);
}

TextFile::TextFile(TextFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

TextFile& TextFile::operator=(TextFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(descriptor_, other.descriptor_);
    return *this;
}

TextFile::~TextFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

void TextFile::write(std::string_view text) {
    while (!text.empty()) {
        const ssize_t written = ::write(descriptor_, text.data(), text.size());
        if (written < 0 && errno != EINTR) fail("write", path_);
        if (written > 0) text.remove_prefix(static_cast<std::size_t>(written));
    }
}

std::string TextFile::write_whole(std::string_view text) {
    const off_t end = ::lseek(descriptor_, 0, SEEK_END);
    try {
        write(text);
    } catch (const SystemError& error) {
        if (end < 0 || (::lseek(descriptor_, 0, SEEK_END) != end && ::ftruncate(descriptor_, end) != 0)) throw;
        return error.what();
    }
    return "";
}

void TextFile::synchronize() {
    if (::fsync(descriptor_) != 0) fail("write", path_);
}

void replace_file(const std::filesystem::path& path, std::string_view text) {
    const std::filesystem::path fresh = path.string() + ".new";
    TextFile file(fresh, TextFile::Mode::replace);
    file.write(text);
    file.synchronize();
    if (::rename(fresh.c_str(), path.c_str()) != 0) fail("replace", path);
}

} // namespace tessera
