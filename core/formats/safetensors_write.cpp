// SPDX-License-Identifier: Apache-2.0
// A checkpoint's tensors as a safetensors file, a piece at a time.
#include "core/checkpoint/walk.hpp"
#include "core/formats/narrow.hpp"
#include "core/formats/new_file.hpp"
#include "core/formats/safetensors.hpp"
#include "core/json.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {
namespace {

std::string_view word_of(DType dtype) {
    switch (dtype) {
    case DType::f32:
        return "F32";
    case DType::bf16:
        return "BF16";
    case DType::i32:
        return "I32";
    default:
        throw InternalError(fmt::format("no checkpoint holds {}", name_of(dtype)));
    }
}

std::string metadata_text(const std::map<std::string, std::string>& metadata) {
    std::string text = "\"__metadata__\":{";
    for (const auto& [key, value] : metadata)
        text += fmt::format("{}{}:{}", text.ends_with('{') ? "" : ",", json_string(key), json_string(value));
    return text + "}";
}

std::int64_t bytes_of(const NewTensor& tensor) { return tensor.shape.count() * tessera::bytes_of(tensor.dtype); }

} // namespace

void write_safetensors_file(const std::string& path, const std::map<std::string, std::string>& metadata,
                            const std::vector<NewTensor>& tensors) {
    std::string header = "{" + metadata_text(metadata);
    std::int64_t position = 0;
    for (const NewTensor& tensor : tensors) {
        std::vector<std::int64_t> sizes;
        for (int dim = 0; dim < tensor.shape.rank(); ++dim)
            sizes.push_back(tensor.shape[dim]);
        const std::int64_t end = position + bytes_of(tensor);
        header += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", json_string(tensor.name),
                              word_of(tensor.dtype), fmt::join(sizes, ","), position, end);
        position = end;
    }
    header += "}";
    header.append((8 - header.size() % 8) % 8, ' ');
    if (static_cast<std::int64_t>(header.size()) > safetensors_header_limit)
        throw ConfigError(fmt::format("{}: its header would have {} bytes, the format allows {}", path, header.size(),
                                      safetensors_header_limit));
    NewFile file(path);
    const std::uint64_t header_bytes = header.size();
    file.write(&header_bytes, 8);
    file.write(header.data(), static_cast<std::int64_t>(header.size()));
    for (const NewTensor& tensor : tensors) {
        std::int64_t written = 0;
        tensor.fill([&](const ConstView& part) {
            file.write(part.data, part.bytes());
            written += part.bytes();
        });
        if (written != bytes_of(tensor))
            throw InternalError(fmt::format("{} bytes of '{}' {}", written, tensor.name, tensor.shape.text()));
    }
    file.finish();
}

void write_safetensors(const Checkpoint& checkpoint, const std::string& path, bool states,
                       std::optional<DType> narrow) {
    std::vector<NewTensor> tensors;
    for (const SavedTensor& tensor : checkpoint.tensors()) {
        if (!states && is_optimizer_state(tensor.name)) continue;
        const DType stored = stored_dtype(tensor.dtype, narrow);
        tensors.push_back({tensor.name, tensor.whole, stored, [&checkpoint, &tensor, stored](const WritePiece& write) {
                               read_in_pieces(checkpoint, tensor, [&](const TensorPiece&, const View& part) {
                                   write(narrow_in_place(part, stored));
                               });
                           }});
    }
    std::stable_sort(tensors.begin(), tensors.end(), [](const NewTensor& a, const NewTensor& b) {
        return tessera::bytes_of(a.dtype) > tessera::bytes_of(b.dtype);
    });
    std::map<std::string, std::string> metadata{{"format", "pt"}, {"step", fmt::format("{}", checkpoint.step())}};
    metadata.insert(checkpoint.metadata().begin(), checkpoint.metadata().end()); // which does not overrule these
    write_safetensors_file(path, metadata, tensors);
}

} // namespace tessera
