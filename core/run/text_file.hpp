// SPDX-License-Identifier: Apache-2.0
// A file that text is written to, whole lines at a time, so that a crash leaves no half of one. Owns its descriptor.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace tessera {

// Move-only; empty after a move. Every function throws SystemError with the path when the system refuses.
class TextFile {
public:
    enum class Mode { append, replace };

    TextFile(std::filesystem::path path, Mode mode);
    TextFile(TextFile&& other) noexcept;
    TextFile& operator=(TextFile&& other) noexcept;
    ~TextFile();

    void write(std::string_view text); // one write call, unless the system cuts it
    // All of it, or nothing: then the reason. Of one that nobody else writes to at the same time.
    std::string write_whole(std::string_view text);
    void synchronize(); // returns when the disk has it

private:
    std::filesystem::path path_;
    int descriptor_ = -1;
};

// The file holds either what it held before or all of `text`, also when the machine stops meanwhile.
void replace_file(const std::filesystem::path& path, std::string_view text);

} // namespace tessera
