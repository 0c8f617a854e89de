// SPDX-License-Identifier: Apache-2.0
// The one list of families, and what their files share.
#include "core/formats/hugging_face/family.hpp"

#include "core/json.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <fmt/format.h>

namespace tessera {

std::span<const HubFamily* const> hub_families() {
    static constexpr std::array all{&hub_bert, &hub_gpt2, &hub_llama, &hub_t5, &hub_vit};
    return all;
}

HubMatrix::HubMatrix(const HubRows& from) {
    const Shape& shape = from.shape;
    if (from.transposed && shape.rank() != 2)
        throw InternalError(fmt::format("'{}' {} is no matrix", from.tensor, shape.text()));
    const std::int64_t all = shape.rank() == 0 ? 1 : from.transposed ? shape[1] : shape[0];
    columns = from.transposed ? shape[0] : shape.rank() == 0 ? 1 : shape.count(1, shape.rank());
    first_row = from.first;
    rows = from.count == 0 ? all : from.count;
    if (first_row < 0 || first_row + rows > all) throw InternalError(fmt::format("'{}' has {} rows", from.tensor, all));
}

void HubFields::add(std::string_view name, std::int64_t value) { add_text(name, fmt::format("{}", value)); }
void HubFields::add(std::string_view name, double value) { add_text(name, toml_text(value)); }
void HubFields::add(std::string_view name, std::string_view value) { add_text(name, json_string(value)); }
void HubFields::add_text(std::string_view name, std::string json) { fields_.emplace_back(name, std::move(json)); }

std::string HubFields::text() const {
    std::string all = "{\n";
    for (std::size_t i = 0; i < fields_.size(); ++i)
        all += fmt::format("  {}: {}{}\n", json_string(fields_[i].first), fields_[i].second,
                           i + 1 < fields_.size() ? "," : "");
    return all + "}\n";
}

std::optional<NumberedName> numbered(std::string_view list, std::string_view name) {
    if (!name.starts_with(list) || name.size() <= list.size() || name[list.size()] != '.') return {};
    name.remove_prefix(list.size() + 1);
    NumberedName found{};
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), found.number);
    if (error != std::errc() || end == name.data() + name.size() || *end != '.') return {};
    found.rest = name.substr(static_cast<std::size_t>(end - name.data()) + 1);
    return found;
}

std::vector<HubRows> encoder_block_rows(const HubEncoderBlock& kind, const std::string& block, std::string_view name,
                                        const Shape& shape, std::int64_t width) {
    if (name == "attention.qkv.weight" || name == "attention.qkv.bias") {
        const bool of_bias = name.ends_with(".bias");
        std::vector<HubRows> rows;
        for (const char* part : {"query", "key", "value"})
            rows.push_back({fmt::format("{}{}{}.{}", block, kind.self, part, of_bias ? "bias" : "weight"),
                            of_bias ? Shape{width} : Shape{width, width}});
        return rows;
    }
    const auto found = std::ranges::find(kind.pairs, name, &HubPair::ours);
    if (found == kind.pairs.end()) return {};
    const bool matrix = name.ends_with(".weight");
    return {{block + std::string(found->theirs), matrix ? Shape{shape[0], shape.count() / shape[0]} : shape}};
}

std::int64_t labels_of(const JsonValues& config) {
    std::int64_t count = 0;
    for (const auto& [name, value] : config.all())
        count += name.starts_with("id2label.") ? 1 : 0;
    return config.integer("num_labels", count > 0 ? count : 2); // their default
}

std::string labels_text(std::int64_t labels) {
    std::string text;
    for (std::int64_t label = 0; label < labels; ++label)
        text += fmt::format("{}\"{}\": \"LABEL_{}\"", label > 0 ? ", " : "", label, label);
    return "{" + text + "}";
}

Shape shape_in(const Checkpoint& checkpoint, std::string_view name) {
    for (const SavedTensor& tensor : checkpoint.tensors())
        if (tensor.name == name) return tensor.whole;
    throw ConfigError(fmt::format("checkpoint {} has no tensor '{}'", checkpoint.folder(), name));
}

} // namespace tessera
