// SPDX-License-Identifier: Apache-2.0
// MANIFEST: the text that says what a checkpoint holds, where it lies and which hashes it has. Knows no HDF5 and no
// files.
//
//   tessera-checkpoint 1
//   step 500
//   ranks 2
//   meta config [model]\nlayers = 2\n                        key, then the value with \n \\ and \xHH escapes
//   index index.h5 9216 9f86d081884c7d65                     name, bytes, xxh3 of the file
//   file rank-00000.h5 123456 60303ae22b998861               name, bytes, xxh3 of all bytes outside the slabs
//   file rank-00001.h5 98304 fd61a03af4f77d87
//   tensor embedding.weight f32 (65,128)
//   slab 0 (0,0) (33,128) 2048 embedding.weight 2f2c…,81aa…   file, start, count, first byte in the file, dataset, xxh3
//   slab 1 (33,0) (32,128) 2048 embedding.weight 93be…        of each block (tensor_box.hpp)
//   end 0f1e2d3c4b5a6978                                     xxh3 of all text before this line
#pragma once

#include "core/checkpoint/checkpoint.hpp"
#include "core/checkpoint/tensor_box.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

inline constexpr int manifest_version = 1;
inline constexpr std::string_view manifest_name = "MANIFEST";
inline constexpr std::string_view index_name = "index.h5";

// One box of a tensor as one dataset of one file.
struct Slab {
    int file = 0; // its place in Manifest::files
    TensorBox box;
    std::int64_t first_byte = 0; // of the data in the file
    std::string dataset;
    std::vector<std::uint64_t> block_hashes;
};

struct TensorEntry : SavedTensor {
    std::vector<Slab> slabs;
};

struct FileEntry {
    std::string name;
    std::int64_t bytes = 0;
    std::uint64_t hash = 0; // of all bytes that are not data of a slab
};

struct Manifest {
    std::int64_t step = 0;
    int ranks = 0;
    std::map<std::string, std::string> metadata;
    FileEntry index;
    std::vector<FileEntry> files;
    std::vector<TensorEntry> tensors;
};

// xxh3 (64 bits) of bytes that come in pieces.
class Hash {
public:
    Hash();
    Hash(const Hash&) = delete;
    Hash& operator=(const Hash&) = delete;
    ~Hash();
    void add(const void* data, std::int64_t bytes);
    std::uint64_t value() const;
    static std::uint64_t of(const void* data, std::int64_t bytes);

private:
    void* state_;
};

// Letters, digits and _ . - in components that are divided by '/'; no component is empty, "." or "..".
bool is_valid_name(std::string_view name);

// "(33,128)": sizes and places as MANIFEST has them.
std::string numbers_text(const std::vector<std::int64_t>& numbers);

std::string text_of(const Manifest& manifest);

// Throws ConfigError that begins with `where` and names the line. Numbers are checked against overflow, and every slab
// lies within its tensor and its file without meeting another there: what is allocated later is bounded by file sizes.
Manifest parse_manifest(std::string_view text, const std::string& where);

// The first tensor that has an element in no slab or in two, as a sentence; nothing when every element lies in one.
std::optional<std::string> find_uncovered(const Manifest& manifest);

} // namespace tessera
