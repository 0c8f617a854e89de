// SPDX-License-Identifier: Apache-2.0
// Elements of a file, made f32 on the way.
#include "core/formats/weight_file.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <filesystem>
#include <fmt/format.h>

namespace tessera {
namespace {

// Reads 16-bit elements into the upper half of the memory of as many floats, then widens them from the front: each is
// read before its place is written.
template <class Narrow> void read_widened(const File& file, std::int64_t position, const View& part) {
    const std::int64_t count = part.count();
    auto* wide = part.as<float>();
    auto* narrow = reinterpret_cast<Narrow*>(wide) + count;
    file.read_at(position, narrow, count * static_cast<std::int64_t>(sizeof(Narrow)));
    for (std::int64_t i = 0; i < count; ++i) {
        Narrow value;
        std::copy_n(reinterpret_cast<const std::byte*>(narrow + i), sizeof value, reinterpret_cast<std::byte*>(&value));
        const auto widened = static_cast<float>(value);
        std::copy_n(reinterpret_cast<const std::byte*>(&widened), sizeof widened,
                    reinterpret_cast<std::byte*>(wide + i));
    }
}

} // namespace

WeightFile::WeightFile(File file, std::vector<StoredTensor> tensors, std::map<std::string, std::string> metadata)
    : file_(std::move(file)), tensors_(std::move(tensors)), metadata_(std::move(metadata)) {
    for (const StoredTensor& tensor : tensors_)
        by_name_.emplace(tensor.name, &tensor);
}

const StoredTensor* WeightFile::find(std::string_view name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : found->second;
}

void WeightFile::read(const StoredTensor& tensor, std::int64_t first, const View& part) const {
    const std::int64_t position = tensor.first_byte + first * bytes_of(tensor.dtype);
    if (part.dtype == tensor.dtype)
        file_.read_at(position, part.memory(), part.bytes());
    else if (part.dtype == DType::f32 && tensor.dtype == DType::bf16)
        read_widened<BFloat16>(file_, position, part);
    else if (part.dtype == DType::f32 && tensor.dtype == DType::f16)
        read_widened<Float16>(file_, position, part);
    else
        throw ConfigError(fmt::format("{}: tensor '{}' is {}, the model wants {}", path(), tensor.name,
                                      name_of(tensor.dtype), name_of(part.dtype)));
}

File open_weights(const std::string& path) {
    std::error_code error;
    const std::filesystem::path real = std::filesystem::canonical(path, error);
    if (error) throw ConfigError(fmt::format("cannot open {}: {}", path, error.message()));
    if (!std::filesystem::is_regular_file(real, error)) throw ConfigError(fmt::format("{} is no file", path));
    return File::open_to_read(real.string());
}

} // namespace tessera
