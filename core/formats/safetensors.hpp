// SPDX-License-Identifier: Apache-2.0
// The safetensors format (github.com/huggingface/safetensors): eight bytes with the size of a header, little-endian;
// the header, JSON padded with blanks to a multiple of eight bytes; then all tensors, row-major, little-endian, back to
// back:
//   {"__metadata__": {"format": "pt", …}, "norm.scale": {"dtype": "F32", "shape": [128], "data_offsets": [0, 512]}, …}
#pragma once

#include "core/checkpoint/checkpoint.hpp"
#include "core/formats/weight_file.hpp"

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

inline constexpr std::int64_t safetensors_header_limit = 100'000'000; // the format's own

struct SafetensorsHeader {
    std::vector<StoredTensor> tensors; // first_byte counts from the end of the header; in the order of the data
    std::map<std::string, std::string> metadata;
};

// Takes text from anywhere. Throws ConfigError that begins with `where` for what is no header of `data_bytes` bytes of
// tensors without gaps or overlaps, and for dtypes that nothing here holds (F64, I64, …).
SafetensorsHeader parse_safetensors_header(std::string_view json, std::int64_t data_bytes, const std::string& where);

WeightFile open_safetensors(const std::string& path);

// A tensor to be written: `fill` gives its elements to `write`, in order, as `dtype`, in pieces of any size.
using WritePiece = std::function<void(const ConstView&)>;
struct NewTensor {
    std::string name;
    Shape shape;
    DType dtype = DType::f32;
    std::function<void(const WritePiece& write)> fill;
};

// Writes a new file of these, in this order.
void write_safetensors_file(const std::string& path, const std::map<std::string, std::string>& metadata,
                            const std::vector<NewTensor>& tensors);

// Writes the tensors of `checkpoint`, optimizer states only if `states` is set; f32 as `narrow`, where it is bf16.
// Names are the checkpoint's; the header's metadata are the checkpoint's with format "pt" (transformers wants one) and
// "step". Larger elements come first, so that each tensor lies on a multiple of its element's size.
void write_safetensors(const Checkpoint& checkpoint, const std::string& path, bool states, std::optional<DType> narrow);

} // namespace tessera
