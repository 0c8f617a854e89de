// SPDX-License-Identifier: Apache-2.0
// The texts of `tessera checkpoint inspect`.
#include "core/checkpoint/describe.hpp"

#include "core/json.hpp"
#include "core/visible.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {
namespace {

constexpr std::size_t short_text = 60; // letters of a value that fit beside its key

double mebibytes(std::int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

std::int64_t bytes_of(const SavedTensor& tensor) { return tensor.whole.count() * bytes_of(tensor.dtype); }

std::string table_of_tensors(const std::vector<SavedTensor>& tensors) {
    std::size_t name_width = 6, shape_width = 5; // of the words in the first line
    for (const SavedTensor& tensor : tensors) {
        name_width = std::max(name_width, tensor.name.size());
        shape_width = std::max(shape_width, tensor.whole.text().size());
    }
    std::string text = fmt::format("{:<{}}  {:>{}}  dtype        MiB\n", "tensor", name_width, "shape", shape_width);
    for (const SavedTensor& tensor : tensors)
        text += fmt::format("{:<{}}  {:>{}}  {:<5} {:>10.3f}\n", tensor.name, name_width, tensor.whole.text(),
                            shape_width, name_of(tensor.dtype), mebibytes(bytes_of(tensor)));
    return text;
}

std::string metadata_text(const std::map<std::string, std::string>& metadata) {
    std::size_t width = 0;
    for (const auto& [key, value] : metadata)
        width = std::max(width, key.size());
    std::string text;
    for (const auto& [key, value] : metadata) {
        const bool is_short = value.size() <= short_text && value.find('\n') == std::string::npos;
        const auto lines =
            std::count(value.begin(), value.end(), '\n') + (value.empty() || value.back() == '\n' ? 0 : 1);
        text += is_short ? fmt::format("{:<{}}  {}\n", key, width, value)
                         : fmt::format("{:<{}}  ({} bytes, {} line{})\n", key, width, value.size(), lines,
                                       lines == 1 ? "" : "s");
    }
    return text;
}

} // namespace

std::string describe(const Checkpoint& checkpoint) {
    std::int64_t bytes = 0;
    for (const SavedTensor& tensor : checkpoint.tensors())
        bytes += bytes_of(tensor);
    std::string text = fmt::format("checkpoint {}\nstep {}, written by {} rank{}, {} tensors, {:.3f} MiB\n\n",
                                   checkpoint.folder(), checkpoint.step(), checkpoint.ranks(),
                                   checkpoint.ranks() == 1 ? "" : "s", checkpoint.tensors().size(), mebibytes(bytes));
    text += table_of_tensors(checkpoint.tensors());
    if (!checkpoint.metadata().empty()) text += fmt::format("\n{}", metadata_text(checkpoint.metadata()));
    const auto config = checkpoint.metadata().find("config");
    if (config != checkpoint.metadata().end()) text += fmt::format("\nconfig:\n{}", config->second);
    if (!text.ends_with('\n')) text += '\n';
    return visible(text);
}

std::string describe_json(const Checkpoint& checkpoint) {
    std::vector<std::string> tensors, metadata;
    for (const SavedTensor& tensor : checkpoint.tensors()) {
        std::vector<std::int64_t> sizes;
        for (int dim = 0; dim < tensor.whole.rank(); ++dim)
            sizes.push_back(tensor.whole[dim]);
        tensors.push_back(fmt::format(R"({{"name":{},"dtype":"{}","shape":[{}],"bytes":{}}})", json_string(tensor.name),
                                      name_of(tensor.dtype), fmt::join(sizes, ","), bytes_of(tensor)));
    }
    for (const auto& [key, value] : checkpoint.metadata())
        metadata.push_back(fmt::format("{}:{}", json_string(key), json_string(value)));
    return fmt::format("{{\"folder\":{},\"step\":{},\"ranks\":{},\"tensors\":[{}],\"metadata\":{{{}}}}}\n",
                       json_string(checkpoint.folder()), checkpoint.step(), checkpoint.ranks(), fmt::join(tensors, ","),
                       fmt::join(metadata, ","));
}

} // namespace tessera
