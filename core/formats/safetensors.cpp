// SPDX-License-Identifier: Apache-2.0
// Reading: the header's parser, which trusts nothing. Writing is safetensors_write.cpp's.
#include "core/formats/safetensors.hpp"

#include "core/json.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <limits>
#include <set>

namespace tessera {
namespace {

std::optional<DType> dtype_of_word(std::string_view word) {
    if (word == "F32") return DType::f32;
    if (word == "BF16") return DType::bf16;
    if (word == "F16") return DType::f16;
    if (word == "I32") return DType::i32;
    return {};
}

// Depth 1 is the header's object, 2 a tensor's or the metadata's, 3 a list of numbers.
class HeaderReader final : public JsonReader {
public:
    HeaderReader(const std::string& where, std::int64_t data_bytes) : where_(where), data_bytes_(data_bytes) {}

    void begin_object() override {
        if (depth_ > 1 || (depth_ == 1 && key_.empty())) refuse("holds an object where none belongs");
        ++depth_;
        if (depth_ == 1) return;
        in_metadata_ = key_ == "__metadata__";
        tensor_ = {};
        tensor_.name = key_;
        has_dtype_ = has_shape_ = has_offsets_ = false;
    }
    void key(std::string_view name) override {
        if (name.size() > 1000) refuse("holds a name of over 1000 bytes");
        (depth_ == 1 ? key_ : field_) = name;
        if (depth_ == 1 && !names_.insert(key_).second) refuse(fmt::format("names '{:.80}' twice", name));
    }
    void end_object() override {
        if (--depth_ == 1 && !in_metadata_) take_tensor();
    }
    void begin_array() override {
        if (depth_ != 2 || in_metadata_ || in_list_ || (field_ != "shape" && field_ != "data_offsets"))
            refuse("holds a list where none belongs");
        in_list_ = true;
        list_.clear();
    }
    void end_array() override {
        in_list_ = false;
        if (field_ == "shape") {
            take_shape();
        } else {
            if (has_offsets_ || list_.size() != 2) refuse(of_tensor("has no two data_offsets"));
            has_offsets_ = true;
            begin_ = list_[0];
            end_ = list_[1];
        }
    }
    void text(std::string_view value) override {
        if (depth_ != 2 || in_list_) refuse("holds a text where none belongs");
        if (in_metadata_) {
            if (!header_.metadata.emplace(field_, value).second)
                refuse(fmt::format("has metadata '{:.80}' twice", field_));
            return;
        }
        if (field_ != "dtype" || has_dtype_) refuse(of_tensor(fmt::format("has an unknown field '{:.80}'", field_)));
        const std::optional<DType> dtype = dtype_of_word(value);
        if (!dtype) refuse(of_tensor(fmt::format("has dtype '{:.20}': F32, BF16, F16 and I32 are read", value)));
        tensor_.dtype = *dtype;
        has_dtype_ = true;
    }
    void number(std::uint64_t value) override {
        if (!in_list_) refuse("holds a number where none belongs");
        if (list_.size() >= static_cast<std::size_t>(Shape::max_rank))
            refuse(of_tensor(fmt::format("has more than {} dims", Shape::max_rank)));
        if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
            refuse(of_tensor(fmt::format("has the size {}", value)));
        list_.push_back(static_cast<std::int64_t>(value));
    }
    void other() override { refuse("holds something that is no text, list or whole number from 0 on"); }

    SafetensorsHeader finish() {
        std::vector<StoredTensor>& tensors = header_.tensors;
        std::sort(tensors.begin(), tensors.end(),
                  [](const auto& a, const auto& b) { // of two that begin together, one is empty
                      return std::pair(a.first_byte, a.shape.count()) < std::pair(b.first_byte, b.shape.count());
                  });
        std::int64_t end = 0;
        for (const StoredTensor& tensor : tensors) {
            if (tensor.first_byte != end)
                refuse(fmt::format("tensor '{:.80}' begins at byte {}, the one before it ends at {}", tensor.name,
                                   tensor.first_byte, end));
            end += tensor.shape.count() * bytes_of(tensor.dtype);
        }
        if (end != data_bytes_)
            refuse(fmt::format("its tensors have {} bytes, but {} follow the header", end, data_bytes_));
        return std::move(header_);
    }

private:
    [[noreturn]] void refuse(const std::string& reason) const {
        throw ConfigError(fmt::format("{}: {}{}", where_,
                                      reason.starts_with("tensor") || reason.starts_with("its") ? "" : "the header ",
                                      reason));
    }
    std::string of_tensor(const std::string& reason) const {
        return fmt::format("tensor '{:.80}' {}", tensor_.name, reason);
    }

    void take_shape() {
        if (has_shape_) refuse(of_tensor("has two shapes"));
        has_shape_ = true;
        std::int64_t count = 8; // bytes of the largest element that any of these formats has
        for (const std::int64_t size : list_) {
            if (__builtin_mul_overflow(count, std::max<std::int64_t>(size, 1), &count))
                refuse(of_tensor("has more elements than a 64-bit number can say"));
            tensor_.shape.append(size);
        }
    }

    void take_tensor() {
        if (!has_dtype_ || !has_shape_ || !has_offsets_) refuse(of_tensor("lacks dtype, shape or data_offsets"));
        const std::int64_t bytes = tensor_.shape.count() * bytes_of(tensor_.dtype);
        if (begin_ > end_ || end_ > data_bytes_ || end_ - begin_ != bytes)
            refuse(
                of_tensor(fmt::format("{} {} needs {} bytes, its data_offsets say {} to {} of {}", tensor_.shape.text(),
                                      name_of(tensor_.dtype), bytes, begin_, end_, data_bytes_)));
        tensor_.first_byte = begin_;
        header_.tensors.push_back(std::move(tensor_));
    }

    const std::string& where_;
    std::int64_t data_bytes_;
    SafetensorsHeader header_;
    std::set<std::string, std::less<>> names_;
    int depth_ = 0;
    bool in_metadata_ = false, in_list_ = false;
    std::string key_, field_; // of depth 1 and 2
    StoredTensor tensor_;
    bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
    std::vector<std::int64_t> list_;
    std::int64_t begin_ = 0, end_ = 0;
};

} // namespace

SafetensorsHeader parse_safetensors_header(std::string_view json, std::int64_t data_bytes, const std::string& where) {
    HeaderReader reader(where, data_bytes);
    read_json(json, where, reader);
    return reader.finish();
}

WeightFile open_safetensors(const std::string& path) {
    File file = open_weights(path);
    const std::int64_t bytes = file.bytes();
    std::uint64_t header_bytes = 0;
    if (bytes >= 8) file.read_at(0, &header_bytes, 8);
    if (bytes < 8 || header_bytes > static_cast<std::uint64_t>(std::min(bytes - 8, safetensors_header_limit)))
        throw ConfigError(fmt::format("{} is no safetensors file: it has {} bytes and says that its header has {}",
                                      path, bytes, header_bytes));
    std::string json(static_cast<std::size_t>(header_bytes), '\0');
    file.read_at(8, json.data(), static_cast<std::int64_t>(json.size()));
    const auto data = static_cast<std::int64_t>(8 + header_bytes);
    SafetensorsHeader header = parse_safetensors_header(json, bytes - data, path);
    for (StoredTensor& tensor : header.tensors)
        tensor.first_byte += data;
    return {std::move(file), std::move(header.tensors), std::move(header.metadata)};
}

} // namespace tessera
