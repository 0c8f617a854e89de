// SPDX-License-Identifier: Apache-2.0
// What the tests of the data share: a folder that goes away again, and the words of a refusal.
#pragma once

#include "kernels/error.hpp"

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

class TestFolder {
public:
    TestFolder() {
        std::string name = (std::filesystem::temp_directory_path() / "tessera-data-XXXXXX").string();
        if (mkdtemp(name.data()) == nullptr) throw SystemError("cannot make a folder for the test");
        path_ = name;
    }
    ~TestFolder() { std::filesystem::remove_all(path_); }
    TestFolder(const TestFolder&) = delete;
    TestFolder& operator=(const TestFolder&) = delete;

    std::string path(const std::string& name) const { return (path_ / name).string(); }

    std::string write(const std::string& name, std::string_view content) const {
        std::ofstream(path_ / name, std::ios::binary)
            .write(content.data(), static_cast<std::streamsize>(content.size()));
        return path(name);
    }

private:
    std::filesystem::path path_;
};

template <class Number> void append_little_endian(std::string& bytes, Number value) {
    for (std::size_t i = 0; i < sizeof value; ++i)
        bytes.push_back(static_cast<char>(static_cast<std::uint64_t>(value) >> (8 * i)));
}

// A token file of llm.c, byte by byte: 2-byte tokens for version 1, else 4 bytes.
inline std::string token_file(const std::vector<std::uint32_t>& tokens, std::int32_t magic = 20240520,
                              std::int32_t version = 1) {
    std::string bytes;
    append_little_endian(bytes, magic);
    append_little_endian(bytes, version);
    append_little_endian(bytes, static_cast<std::int32_t>(tokens.size()));
    bytes.resize(1024);
    for (const std::uint32_t token : tokens)
        if (version == 1)
            append_little_endian(bytes, static_cast<std::uint16_t>(token));
        else
            append_little_endian(bytes, token);
    return bytes;
}

template <class Work> void expect_refusal(const Work& work, const std::string& message) {
    try {
        work();
        ADD_FAILURE() << "not refused; expected: " << message;
    } catch (const ConfigError& refusal) {
        EXPECT_EQ(refusal.what(), message);
    }
}

// Where a library's words follow.
template <class Work> void expect_refusal_like(const Work& work, const std::string& begin) {
    try {
        work();
        ADD_FAILURE() << "not refused; expected: " << begin;
    } catch (const ConfigError& refusal) {
        EXPECT_EQ(std::string(refusal.what()).substr(0, begin.size()), begin);
    }
}

} // namespace tessera
