// SPDX-License-Identifier: Apache-2.0
// Reading a folder: which family, which file has which tensor, and ours as rows of theirs.
#include "core/formats/hugging_face/folder.hpp"

#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;

std::string text_of(const std::string& path, std::int64_t most) {
    const File file = open_weights(path);
    const std::int64_t bytes = file.bytes();
    if (bytes > most) throw ConfigError(fmt::format("{} has {} bytes, expected at most {}", path, bytes, most));
    std::string text(static_cast<std::size_t>(bytes), '\0');
    file.read_at(0, text.data(), bytes);
    return text;
}

std::string in_folder(const std::string& folder, std::string_view name) { return (fs::path(folder) / name).string(); }

const HubFamily* family_of(const JsonValues& config) {
    const std::string type = config.text("model_type");
    std::vector<std::string_view> names;
    for (const HubFamily* family : hub_families()) {
        if (type == family->model_type) return family;
        names.push_back(family->model_type);
    }
    config.refuse("model_type", no_such_name("family of models", type, names));
}

// Before anything is reckoned from it.
void check_size(const HubSetting& setting, const JsonValues& config) {
    const auto* value = std::get_if<std::int64_t>(&setting.value);
    if (value == nullptr) return;
    const bool of_heads = setting.key == "model.n_heads" || setting.key == "model.n_kv_heads";
    const bool is_needed =
        setting.key == "model.dim" || setting.key == "model.n_layers" || setting.key == "model.n_heads";
    const std::int64_t least = is_needed ? 1 : setting.key.ends_with("_token") ? -1 : 0; // no such token
    const std::int64_t most = of_heads ? 1 << 12 : 1 << 26;
    if (*value < least || *value > most)
        throw ConfigError(
            fmt::format("{}: makes {} = {}, expected {} to {}", config.where(), setting.key, *value, least, most));
}

// The files of weights, each once, as the index lists them.
std::vector<std::string> files_of(const std::string& folder) {
    constexpr std::string_view whole = "model.safetensors", index = "model.safetensors.index.json";
    if (fs::exists(in_folder(folder, whole))) return {std::string(whole)};
    const std::string path = in_folder(folder, index);
    if (!fs::exists(path))
        throw ConfigError(fmt::format("{} has neither {} nor {}{}", folder, whole, index,
                                      fs::exists(in_folder(folder, "pytorch_model.bin"))
                                          ? ": pytorch_model.bin is a program in disguise (pickle) and is not read; "
                                            "save the model with safe_serialization=True"
                                          : ""));
    const JsonValues values(text_of(path, 100'000'000), path);
    std::vector<std::string> files;
    for (const auto& [name, value] : values.all()) {
        if (!name.starts_with("weight_map.")) continue;
        const std::string file = values.text(name);
        if (file.find('/') != std::string::npos || !file.ends_with(".safetensors"))
            values.refuse(name, "expected the name of a safetensors file in this folder");
        if (std::ranges::find(files, file) == files.end()) files.push_back(file);
    }
    if (files.empty()) throw ConfigError(fmt::format("{} lists no tensors in 'weight_map'", path));
    return files;
}

class HubWeights final : public WeightSource {
public:
    HubWeights(const HubFolder& folder, const JsonValues& values, const Config& config)
        : path_(folder.path()), family_(folder.family()), config_(config),
          vocabulary_(values.has("vocab_size") ? std::optional(values.integer("vocab_size")) : std::nullopt) {
        for (const std::string& name : files_of(path_))
            files_.push_back(open_safetensors(in_folder(path_, name)));
        for (const WeightFile& file : files_)
            for (const StoredTensor& tensor : file.tensors()) {
                const std::string name = family_.name_of(tensor.name, values);
                if (!name.empty() && !tensors_.emplace(name, Stored{&file, &tensor}).second)
                    throw ConfigError(fmt::format("{} holds '{}' twice", path_, name));
            }
    }

    const std::string& path() const override { return path_; }
    const std::map<std::string, std::string>& metadata() const override { return metadata_; }
    std::optional<std::int64_t> vocabulary() const override { return vocabulary_; }

    // All rows of it, though they may have another shape.
    bool has(const std::string& name) const override {
        const std::vector<HubRows> rows = family_.rows_of(name, {1}, config_);
        return !rows.empty() &&
               std::ranges::all_of(rows, [&](const HubRows& some) { return tensors_.contains(some.tensor); });
    }

    // Known of a tensor that is one of theirs as it lies.
    Shape shape_of(const std::string& name, const Shape& wanted) const override {
        const std::vector<HubRows> rows = family_.rows_of(name, wanted, config_);
        if (rows.size() != 1 || rows[0].transposed || rows[0].shape != wanted) return wanted;
        const auto found = tensors_.find(rows[0].tensor);
        return found == tensors_.end() ? wanted : found->second.tensor->shape;
    }

    void require(const std::string& name, const Shape& whole) const override {
        std::int64_t count = 0;
        for (const HubRows& rows : rows_of(name, whole)) {
            const auto found = tensors_.find(rows.tensor);
            if (found == tensors_.end())
                throw ConfigError(
                    fmt::format("{} has no tensor '{}', of which '{}' is made", path_, rows.tensor, name));
            const StoredTensor& tensor = *found->second.tensor;
            if (tensor.shape != rows.shape)
                throw ConfigError(fmt::format("{}: tensor '{}' is {}, the model's '{}' wants {}", path_, rows.tensor,
                                              tensor.shape.text(), name, rows.shape.text()));
            if (tensor.dtype == DType::i32)
                throw ConfigError(
                    fmt::format("{}: tensor '{}' is i32, the model wants numbers with a fraction", path_, rows.tensor));
            const HubMatrix matrix(rows);
            count += matrix.rows * matrix.columns;
        }
        if (count != whole.count())
            throw ConfigError(
                fmt::format("{}: '{}' would have {} elements, the model wants {}", path_, name, count, whole.text()));
    }

    void read(const std::string& name, const Shape& whole, const std::vector<std::int64_t>& start,
              const View& part) const override {
        const std::vector<HubRows> rows = rows_of(name, whole);
        for_each_run_of(whole, start, part, [&](std::int64_t first, const View& run) { read_run(rows, first, run); });
    }

    std::vector<std::string> beside(const std::set<std::string>& names) const override {
        std::set<std::string> used;
        for (const std::string& name : names)
            for (const HubRows& rows : family_.rows_of(name, {1}, config_))
                used.insert(rows.tensor);
        std::vector<std::string> found;
        for (const auto& [name, stored] : tensors_)
            if (!used.contains(name)) found.push_back(stored.tensor->name);
        return found;
    }

private:
    struct Stored {
        const WeightFile* file;
        const StoredTensor* tensor;
    };

    std::vector<HubRows> rows_of(const std::string& name, const Shape& whole) const {
        std::vector<HubRows> rows = family_.rows_of(name, whole, config_);
        if (rows.empty())
            throw ConfigError(fmt::format("{}: a {} of Hugging Face has nothing of which '{}' could be made", path_,
                                          family_.model_type, name));
        return rows;
    }

    // Elements of ours from `first` on, which may lie in several runs of rows.
    void read_run(const std::vector<HubRows>& rows, std::int64_t first, View run) const {
        std::int64_t begin = 0; // of the rows at hand, in elements of ours
        for (const HubRows& some : rows) {
            const HubMatrix matrix(some);
            const std::int64_t end = begin + matrix.rows * matrix.columns;
            const std::int64_t count = std::min(end - first, run.count());
            if (count > 0 && first >= begin) {
                read_rows(some, matrix.first_row * matrix.columns + first - begin,
                          View(run.memory(), {count}, run.dtype));
                first += count;
                run = View(static_cast<std::byte*>(run.memory()) + count * bytes_of(run.dtype), {run.count() - count},
                           run.dtype);
            }
            begin = end;
        }
        if (run.count() > 0) throw InternalError(fmt::format("{}: rows are missing", path_));
    }

    void read_rows(const HubRows& rows, std::int64_t first, const View& run) const {
        const Stored& stored = tensors_.find(rows.tensor)->second;
        if (!rows.transposed && rows.channels == 0) return stored.file->read(*stored.tensor, first, run);
        if (transposed_name_ != rows.tensor)
            rows.transposed ? transpose(rows, stored) : put_channels_last(rows, stored);
        std::memcpy(run.memory(), transposed_.data() + first, static_cast<std::size_t>(run.bytes()));
    }

    // The whole of it, kept until another one is asked for: pieces of ours are columns of theirs.
    void transpose(const HubRows& rows, const Stored& stored) const {
        const std::int64_t inputs = rows.shape[0], outputs = rows.shape[1];
        transposed_name_.clear();
        transposed_.resize(static_cast<std::size_t>(inputs * outputs));
        std::vector<float> row(static_cast<std::size_t>(outputs));
        for (std::int64_t i = 0; i < inputs; ++i) {
            stored.file->read(*stored.tensor, i * outputs, View(row.data(), {outputs}, DType::f32));
            for (std::int64_t o = 0; o < outputs; ++o)
                transposed_[static_cast<std::size_t>(o * inputs + i)] = row[static_cast<std::size_t>(o)];
        }
        transposed_name_ = rows.tensor;
    }

    void put_channels_last(const HubRows& rows, const Stored& stored) const {
        const std::int64_t columns = HubMatrix(rows).columns, pixels = columns / rows.channels;
        transposed_name_.clear();
        transposed_.resize(static_cast<std::size_t>(rows.shape.count()));
        std::vector<float> row(static_cast<std::size_t>(columns));
        for (std::int64_t i = 0; i < rows.shape[0]; ++i) {
            stored.file->read(*stored.tensor, i * columns, View(row.data(), {columns}, DType::f32));
            for (std::int64_t at = 0; at < columns; ++at)
                transposed_[static_cast<std::size_t>(i * columns + at % pixels * rows.channels + at / pixels)] =
                    row[static_cast<std::size_t>(at)];
        }
        transposed_name_ = rows.tensor;
    }

    std::string path_;
    const HubFamily& family_;
    Config config_;
    std::optional<std::int64_t> vocabulary_;
    std::map<std::string, std::string> metadata_;
    std::vector<WeightFile> files_;
    std::map<std::string, Stored, std::less<>> tensors_; // by the family's name
    mutable std::string transposed_name_;
    mutable std::vector<float> transposed_;
};

} // namespace

bool HubFolder::is_one(const std::string& path) { return fs::exists(in_folder(path, "config.json")); }

HubFolder::HubFolder(const std::string& path)
    : path_(path), config_(text_of(in_folder(path, "config.json"), 1 << 20), in_folder(path, "config.json")),
      family_(family_of(config_)), settings_(family_->settings(config_)) {
    for (const HubSetting& setting : settings_)
        check_size(setting, config_);
}

std::string HubFolder::toml() const {
    std::map<std::string, std::string> sections;
    for (const HubSetting& setting : settings_) {
        const std::size_t dot = setting.key.find('.');
        sections[setting.key.substr(0, dot)] +=
            fmt::format("{} = {}\n", setting.key.substr(dot + 1), toml_text(setting.value));
    }
    std::string text;
    for (const auto& [section, lines] : sections)
        text += fmt::format("{}[{}]\n{}", text.empty() ? "" : "\n", section, lines);
    return text;
}

std::unique_ptr<WeightSource> HubFolder::weights(const Config& config) const {
    return std::make_unique<HubWeights>(*this, config_, config);
}

} // namespace tessera
