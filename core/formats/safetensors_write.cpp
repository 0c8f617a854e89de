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

std::string metadata_text(const Checkpoint& checkpoint) {
    std::map<std::string, std::string> metadata{{"format", "pt"}, {"step", fmt::format("{}", checkpoint.step())}};
    metadata.insert(checkpoint.metadata().begin(), checkpoint.metadata().end()); // which does not overrule these
    std::string text = "\"__metadata__\":{";
    for (const auto& [key, value] : metadata)
        text += fmt::format("{}{}:{}", text.ends_with('{') ? "" : ",", json_string(key), json_string(value));
    return text + "}";
}

} // namespace

void write_safetensors(const Checkpoint& checkpoint, const std::string& path, bool states,
                       std::optional<DType> narrow) {
    std::vector<SavedTensor> tensors;
    for (const SavedTensor& tensor : checkpoint.tensors())
        if (states || !is_optimizer_state(tensor.name)) tensors.push_back(tensor);
    const auto stored = [&](const SavedTensor& tensor) { return stored_dtype(tensor.dtype, narrow); };
    std::stable_sort(tensors.begin(), tensors.end(), [&](const SavedTensor& a, const SavedTensor& b) {
        return bytes_of(stored(a)) > bytes_of(stored(b));
    });
    std::string header = "{" + metadata_text(checkpoint);
    std::int64_t position = 0;
    for (const SavedTensor& tensor : tensors) {
        std::vector<std::int64_t> sizes;
        for (int dim = 0; dim < tensor.whole.rank(); ++dim)
            sizes.push_back(tensor.whole[dim]);
        const std::int64_t end = position + tensor.whole.count() * bytes_of(stored(tensor));
        header += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", json_string(tensor.name),
                              word_of(stored(tensor)), fmt::join(sizes, ","), position, end);
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
    for (const SavedTensor& tensor : tensors)
        read_in_pieces(checkpoint, tensor, [&](const TensorPiece&, const View& part) {
            const ConstView narrowed = narrow_in_place(part, stored(tensor));
            file.write(narrowed.data, narrowed.bytes());
        });
    file.finish();
}

} // namespace tessera
