// SPDX-License-Identifier: Apache-2.0
// The families of models whose Hugging Face folders are read and written: for each, which keys its config.json comes
// to, and of which of its tensors each of ours is made. Both directions follow from the one table.
#pragma once

#include "core/checkpoint/checkpoint.hpp"
#include "core/config.hpp"
#include "core/formats/json_values.hpp"

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tessera {

// Some rows of one of their tensors. Tensors are seen as matrices here: (rows, all other dims); of a vector each
// element is a row.
struct HubRows {
    std::string tensor;      // its name
    Shape shape;             // of the whole tensor, as it is stored
    bool transposed = false; // as (in, out), where a linear layer's weight is (out, in): rows are its columns
    std::int64_t first = 0;  // row
    std::int64_t count = 0;  // of rows; 0: all of them
    // Of a filter: a row of theirs is (channels, height, width), one of ours (height, width, channels). All rows.
    std::int64_t channels = 0;
};

// The same, looked at as a matrix of which `rows` rows from `first_row` on are meant. InternalError where there are
// none.
struct HubMatrix {
    explicit HubMatrix(const HubRows& from);
    std::int64_t first_row, rows, columns;
};

// A key and its value, for the [model] of a config that fits a folder.
struct HubSetting {
    std::string key; // "model.n_layers"
    ConfigValue value;
};

// Fields of a config.json as JSON text, in this order.
class HubFields {
public:
    void add(std::string_view name, bool value) { add_text(name, value ? "true" : "false"); }
    void add(std::string_view name, std::int64_t value);
    void add(std::string_view name, double value);
    void add(std::string_view name, std::string_view value);
    void add(std::string_view name, const char* value) { add(name, std::string_view(value)); }
    void add_text(std::string_view name, std::string json); // as it is: "null", a list, an object
    std::string text() const;                               // of the file

private:
    std::vector<std::pair<std::string, std::string>> fields_;
};

struct HubFamily {
    std::string_view model_type; // config.json's

    // Of a folder's config.json. ConfigError for a model of this family that is not computed here.
    std::vector<HubSetting> (*settings)(const JsonValues& config);
    // A stored tensor's name as `rows_of` has it, whatever prefix or old name it has in this file; "": no weight (a
    // mask, a buffer, a head that is tied).
    std::string (*name_of)(std::string_view stored, const JsonValues& config);

    // Of which rows, one run behind the other, one of our parameters is made. Empty: the family has no such one.
    std::vector<HubRows> (*rows_of)(const std::string& name, const Shape& shape, const Config& config);

    // Whether a checkpoint's model is of this family, roughly: `fields` refuses what differs, with the key's place.
    bool (*fits)(const Config& config);
    void (*fields)(const Config& config, const Checkpoint& checkpoint, HubFields& fields);
};

// Alphabetical: one file each.
extern const HubFamily hub_bert;
extern const HubFamily hub_gpt2;
extern const HubFamily hub_llama;
extern const HubFamily hub_t5;
extern const HubFamily hub_vit;

std::span<const HubFamily* const> hub_families();

// "layers.3.mlp.up.weight" -> 3 and "mlp.up.weight"; nothing when the name is not below a numbered `list`.
struct NumberedName {
    std::int64_t number;
    std::string rest;
};
std::optional<NumberedName> numbered(std::string_view list, std::string_view name);

// One of our parameters and their tensor that holds the same.
struct HubPair {
    std::string_view ours, theirs;
};

// Of an encoder's block, whose tensors' names begin with `block`: queries, keys and values lie apart there, below
// `block` + `self`; all else is one of `pairs`, weights as matrices. `name`: ours within the block. Empty: none of
// them.
struct HubEncoderBlock {
    std::string_view self; // "attention.self."
    std::span<const HubPair> pairs;
};
std::vector<HubRows> encoder_block_rows(const HubEncoderBlock& kind, const std::string& block, std::string_view name,
                                        const Shape& shape, std::int64_t width);

// Of classifiers: how many labels a config.json has, and its "id2label" for as many, as they name them themselves.
std::int64_t labels_of(const JsonValues& config);
std::string labels_text(std::int64_t labels);

// The shape of a tensor of the checkpoint; ConfigError when there is none.
Shape shape_in(const Checkpoint& checkpoint, std::string_view name);

} // namespace tessera
