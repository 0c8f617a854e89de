// SPDX-License-Identifier: Apache-2.0
// GPT-2 in llm.c's order.
#include "core/formats/llmc.hpp"

#include "core/checkpoint/walk.hpp"
#include "core/formats/narrow.hpp"
#include "core/formats/new_file.hpp"
#include "core/model.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>

namespace tessera {
namespace {

constexpr std::int32_t version_of_f32 = 3, version_of_bf16 = 5;
constexpr std::int64_t rows_multiple = 128;
using Header = std::array<std::int32_t, 256>;

struct Sizes {
    std::int64_t sequence = 0, vocabulary = 0, layers = 0, heads = 0, width = 0, rows = 0;

    std::int64_t elements() const {
        return rows * width + sequence * width + layers * (12 * width * width + 13 * width) + 2 * width;
    }
};

struct Named {
    std::string name;
    Shape shape;
    std::int64_t rows_behind = 0; // of padding
};

std::vector<Named> tensors_of(const Sizes& sizes) {
    const std::int64_t width = sizes.width, head_dim = width / sizes.heads;
    const std::vector<std::pair<const char*, Shape>> kinds = {
        {"attention_norm.scale", {width}},
        {"attention_norm.bias", {width}},
        {"attention.qkv.weight", {3, sizes.heads, head_dim, width}},
        {"attention.qkv.bias", {3, sizes.heads, head_dim}},
        {"attention.out.weight", {width, sizes.heads, head_dim}},
        {"attention.out.bias", {width}},
        {"mlp_norm.scale", {width}},
        {"mlp_norm.bias", {width}},
        {"mlp.up.weight", {4 * width, width}},
        {"mlp.up.bias", {4 * width}},
        {"mlp.down.weight", {width, 4 * width}},
        {"mlp.down.bias", {width}},
    };
    std::vector<Named> tensors{
        {"embedding.weight", {sizes.vocabulary, width}, sizes.rows - sizes.vocabulary},
        {"position.weight", {sizes.sequence, width}, 0},
    };
    for (const auto& [kind, shape] : kinds)
        for (std::int64_t layer = 0; layer < sizes.layers; ++layer)
            tensors.push_back({fmt::format("layers.{}.{}", layer, kind), shape, 0});
    tensors.push_back({"norm.scale", {width}, 0});
    tensors.push_back({"norm.bias", {width}, 0});
    return tensors;
}

// Each within a bound that leaves elements() far below 2^63.
Sizes sizes_of(const Header& header, const std::string& path) {
    const Sizes sizes{header[2], header[3], header[4], header[5], header[6], header[7]};
    const bool plausible = sizes.sequence >= 1 && sizes.vocabulary >= 1 && sizes.layers >= 1 &&
                           sizes.layers <= 1 << 12 && sizes.heads >= 1 && sizes.width >= 1 && sizes.width <= 1 << 20 &&
                           sizes.width % sizes.heads == 0 && sizes.rows >= sizes.vocabulary;
    if (!plausible)
        throw ConfigError(
            fmt::format("{}: no GPT-2 has {} tokens of sequence, a vocabulary of {} in {} rows, {} layers, "
                        "{} heads and {} channels",
                        path, sizes.sequence, sizes.vocabulary, sizes.rows, sizes.layers, sizes.heads, sizes.width));
    return sizes;
}

void check_is_gpt2(const Config& config) {
    if (config.get(model_type) != "gpt") config.refuse(model_type.name, "llm.c trains GPT-2 only");
    if (config.get(model_norm) != "layer_norm") config.refuse(model_norm.name, "llm.c's GPT-2 has layer_norm");
    if (config.get(model_activation) != "gelu_tanh")
        config.refuse(model_activation.name, "llm.c's GPT-2 has gelu_tanh");
    if (!config.get(model_bias)) config.refuse(model_bias.name, "llm.c's GPT-2 has biases");
    if (!config.get(model_tied_head)) config.refuse(model_tied_head.name, "llm.c's GPT-2 has a tied head");
    if (config.get(model_positions) != "learned")
        config.refuse(model_positions.name, "llm.c's GPT-2 has learned positions");
    if (config.get(model_gated)) config.refuse(model_gated.name, "llm.c's GPT-2 has no gate");
    if (config.get(model_kv_heads) != 0 && config.get(model_kv_heads) != config.get(model_heads))
        config.refuse(model_kv_heads.name, "in llm.c's GPT-2 heads share no keys");
    if (config.get(model_norm_epsilon) != 1e-5) config.refuse(model_norm_epsilon.name, "llm.c's GPT-2 has 1e-5");
    if (config.get(model_experts) != 0) config.refuse(model_experts.name, "llm.c's GPT-2 has no experts");
    const std::int64_t hidden = config.get(model_hidden_dim);
    if (hidden != 0 && hidden != 4 * config.get(model_dim))
        config.refuse(model_hidden_dim.name, "llm.c's GPT-2 has an MLP four times as wide as the model");
}

Sizes sizes_of(const Checkpoint& checkpoint, const Config& config) {
    Sizes sizes;
    sizes.layers = config.get(model_layers);
    sizes.heads = config.get(model_heads);
    sizes.width = config.get(model_dim);
    if (sizes.layers < 1 || sizes.heads < 1 || sizes.width < 1 || sizes.width % sizes.heads != 0)
        config.refuse(model_heads.name, "makes no model with model.dim and model.n_layers");
    for (const SavedTensor& tensor : checkpoint.tensors()) {
        if (tensor.whole.rank() != 2) continue;
        if (tensor.name == "embedding.weight") sizes.vocabulary = tensor.whole[0];
        if (tensor.name == "position.weight") sizes.sequence = tensor.whole[0];
    }
    sizes.rows = (sizes.vocabulary + rows_multiple - 1) / rows_multiple * rows_multiple;
    return sizes;
}

void write_zeros(NewFile& file, std::int64_t bytes) {
    const std::vector<char> zeros(static_cast<std::size_t>(std::min<std::int64_t>(bytes, 1 << 20)));
    for (; bytes > 0; bytes -= static_cast<std::int64_t>(zeros.size()))
        file.write(zeros.data(), std::min(bytes, static_cast<std::int64_t>(zeros.size())));
}

} // namespace

WeightFile open_llmc(const std::string& path) {
    File file = open_weights(path);
    Header header{};
    const std::int64_t bytes = file.bytes();
    if (bytes >= static_cast<std::int64_t>(sizeof header)) file.read_at(0, header.data(), sizeof header);
    if (header[0] != llmc_model_magic || (header[1] != version_of_f32 && header[1] != version_of_bf16))
        throw ConfigError(fmt::format("{} is no model file of llm.c: magic {} and version {}, expected {} and 3 or 5",
                                      path, header[0], header[1], llmc_model_magic));
    const Sizes sizes = sizes_of(header, path);
    const DType dtype = header[1] == version_of_bf16 ? DType::bf16 : DType::f32;
    const std::int64_t expected = static_cast<std::int64_t>(sizeof header) + sizes.elements() * bytes_of(dtype);
    if (bytes != expected)
        throw ConfigError(fmt::format("{} has {} bytes, a model of its header's sizes has {}", path, bytes, expected));
    std::vector<StoredTensor> tensors;
    std::int64_t position = sizeof header;
    for (Named& tensor : tensors_of(sizes)) {
        const std::int64_t padding = tensor.rows_behind * sizes.width;
        tensors.push_back({std::move(tensor.name), tensor.shape, dtype, position});
        position += (tensor.shape.count() + padding) * bytes_of(dtype);
    }
    return {std::move(file), std::move(tensors), {}};
}

void write_llmc(const Checkpoint& checkpoint, const Config& config, const std::string& path,
                std::optional<DType> narrow) {
    check_is_gpt2(config);
    const Sizes sizes = sizes_of(checkpoint, config);
    const DType dtype = stored_dtype(DType::f32, narrow);
    for (const std::int64_t size : {sizes.sequence, sizes.vocabulary, sizes.rows, sizes.layers})
        if (size > 1 << 30) throw ConfigError(fmt::format("llm.c's files have no size as large as {}", size));
    Header header{};
    header[0] = llmc_model_magic;
    header[1] = dtype == DType::bf16 ? version_of_bf16 : version_of_f32;
    const std::array<std::int64_t, 6> said{sizes.sequence, sizes.vocabulary, sizes.layers,
                                           sizes.heads,    sizes.width,      sizes.rows};
    std::transform(said.begin(), said.end(), header.begin() + 2,
                   [](std::int64_t size) { return static_cast<std::int32_t>(size); });
    const std::vector<Named> tensors = tensors_of(sizes);
    for (const Named& tensor : tensors)
        checkpoint.require(tensor.name, tensor.shape, DType::f32);
    NewFile file(path);
    file.write(header.data(), sizeof header);
    for (const Named& tensor : tensors) {
        read_in_pieces(checkpoint, {tensor.name, tensor.shape, DType::f32}, [&](const TensorPiece&, const View& part) {
            const ConstView narrowed = narrow_in_place(part, dtype);
            file.write(narrowed.data, narrowed.bytes());
        });
        write_zeros(file, tensor.rows_behind * sizes.width * bytes_of(dtype));
    }
    file.finish();
}

} // namespace tessera
