// SPDX-License-Identifier: Apache-2.0
// Weights in another program's file: what it says of its tensors, and their elements as asked for. safetensors.hpp and
// llmc.hpp make one.
#pragma once

#include "core/checkpoint/durable_files.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

struct StoredTensor {
    std::string name;
    Shape shape;
    DType dtype = DType::f32;    // f32, bf16, f16 or i32
    std::int64_t first_byte = 0; // in the file; row-major from there
};

class WeightFile {
public:
    // Who makes one has checked that every tensor lies inside the file.
    WeightFile(File file, std::vector<StoredTensor> tensors, std::map<std::string, std::string> metadata);

    const std::string& path() const { return file_.path(); }
    const std::vector<StoredTensor>& tensors() const { return tensors_; }
    const std::map<std::string, std::string>& metadata() const { return metadata_; }
    const StoredTensor* find(std::string_view name) const; // null when there is none

    // The elements from `first` on, as many as `part` has; made f32 where `part` is f32 and they are bf16 or f16.
    // Throws ConfigError where `part` has another dtype that does not hold them all.
    void read(const StoredTensor& tensor, std::int64_t first, const View& part) const;

private:
    File file_;
    std::vector<StoredTensor> tensors_;
    std::map<std::string_view, const StoredTensor*> by_name_;
    std::map<std::string, std::string> metadata_;
};

// Opens it for reading; a symbolic link is followed, since a person has named it. ConfigError when there is no such
// file.
File open_weights(const std::string& path);

} // namespace tessera
