// SPDX-License-Identifier: Apache-2.0
// By zlib, from the mapped file to where the bytes are wanted. The only file that includes zlib.
#include "core/data/unpacked_file.hpp"

#include "core/data/data_error.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <limits>
#include <zlib.h>

namespace tessera {

struct UnpackedFile::Unpacking {
    z_stream stream{};
    bool ended = false;
    Unpacking() {
        constexpr int gzip_alone = 15 + 16; // window bits
        if (inflateInit2(&stream, gzip_alone) != Z_OK) throw SystemError("zlib: cannot begin to unpack");
    }
    ~Unpacking() { inflateEnd(&stream); }
    Unpacking(const Unpacking&) = delete;
    Unpacking& operator=(const Unpacking&) = delete;
};

UnpackedFile::UnpackedFile(const std::string& path) : file_(path) {
    const std::span<const std::byte> bytes = file_.bytes();
    if (bytes.size() >= 2 && bytes[0] == std::byte{0x1f} && bytes[1] == std::byte{0x8b})
        unpacking_ = std::make_unique<Unpacking>();
}

UnpackedFile::~UnpackedFile() = default;

std::size_t UnpackedFile::read(std::span<std::byte> to) {
    const std::span<const std::byte> bytes = file_.bytes();
    if (unpacking_ == nullptr) {
        const std::size_t count = std::min(to.size(), bytes.size() - taken_);
        if (count > 0) std::memcpy(to.data(), bytes.data() + taken_, count);
        taken_ += count;
        return count;
    }
    constexpr std::size_t most = std::numeric_limits<uInt>::max(); // at zlib's border counts are 32 bits
    z_stream& stream = unpacking_->stream;
    std::size_t given = 0;
    while (given < to.size() && !unpacking_->ended) {
        const std::size_t room = std::min(to.size() - given, most), input = std::min(bytes.size() - taken_, most);
        stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(bytes.data() + taken_));
        stream.avail_in = static_cast<uInt>(input);
        stream.next_out = reinterpret_cast<Bytef*>(to.data() + given);
        stream.avail_out = static_cast<uInt>(room);
        const int result = inflate(&stream, Z_NO_FLUSH);
        taken_ += input - stream.avail_in;
        given += room - stream.avail_out;
        unpacking_->ended = result == Z_STREAM_END;
        if (result == Z_BUF_ERROR && taken_ == bytes.size())
            throw DataError(fmt::format("{}: the packed file is cut off after {} bytes", path(), bytes.size()));
        if (result != Z_OK && result != Z_STREAM_END)
            throw DataError(fmt::format("{}: the packed file is damaged near byte {} ({})", path(), taken_,
                                        stream.msg == nullptr ? "zlib gives no reason" : stream.msg));
    }
    return given;
}

} // namespace tessera
