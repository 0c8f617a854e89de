// SPDX-License-Identifier: Apache-2.0
// Writing a folder: their tensors as runs of rows of ours, shared out over files.
#include "core/checkpoint/walk.hpp"
#include "core/formats/hugging_face/folder.hpp"
#include "core/formats/hugging_face/tokenizer_files.hpp"
#include "core/formats/narrow.hpp"
#include "core/formats/new_file.hpp"
#include "core/json.hpp"
#include "core/run/experiment.hpp"
#include "kernels/error.hpp"
#include "parallel/layout/placement.hpp"

#include <algorithm>
#include <filesystem>
#include <fmt/format.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t most_elements = 4 << 20; // held at one time

// Rows of one of their tensors that lie one behind the other in one of ours.
struct Run {
    std::int64_t first, count; // rows of theirs
    const SavedTensor* ours;
    std::int64_t at; // the first's first element in ours
};

struct TheirTensor {
    std::string name;
    Shape shape;
    bool transposed;
    std::int64_t columns, channels;
    std::vector<Run> runs{};
};

const HubFamily& family_for(const Config& config) {
    for (const HubFamily* family : hub_families())
        if (family->fits(config)) return *family;
    std::vector<std::string_view> names;
    for (const HubFamily* family : hub_families())
        names.push_back(family->model_type);
    throw ConfigError(fmt::format("{}: the model is none that Hugging Face has under a name known here: {}",
                                  config.file(), fmt::join(names, ", ")));
}

std::vector<TheirTensor> tensors_of(const Checkpoint& checkpoint, const Config& config, const HubFamily& family) {
    std::vector<TheirTensor> tensors;
    for (const SavedTensor& ours : checkpoint.tensors()) {
        if (is_optimizer_state(ours.name)) continue;
        const std::vector<HubRows> rows = family.rows_of(ours.name, ours.whole, config);
        if (rows.empty())
            throw ConfigError(fmt::format("checkpoint {}: a {} of Hugging Face has no place for tensor '{}'",
                                          checkpoint.folder(), family.model_type, ours.name));
        std::int64_t at = 0;
        for (const HubRows& some : rows) {
            const HubMatrix matrix(some);
            auto found = std::ranges::find(tensors, some.tensor, &TheirTensor::name);
            if (found == tensors.end())
                found =
                    tensors.insert(found, {some.tensor, some.shape, some.transposed, matrix.columns, some.channels});
            found->runs.push_back({matrix.first_row, matrix.rows, &ours, at});
            at += matrix.rows * matrix.columns;
        }
        if (at != ours.whole.count())
            throw InternalError(fmt::format("{} elements of '{}' {}", at, ours.name, ours.whole.text()));
    }
    for (TheirTensor& tensor : tensors) {
        std::ranges::sort(tensor.runs, {}, &Run::first);
        std::int64_t next = 0;
        for (const Run& run : tensor.runs) {
            if (run.first != next) throw InternalError(fmt::format("'{}' has a gap or an overlap", tensor.name));
            next += run.count;
        }
        if (next * tensor.columns != tensor.shape.count())
            throw InternalError(fmt::format("{} rows of '{}' {}", next, tensor.name, tensor.shape.text()));
    }
    return tensors;
}

// Elements [first, first + count) of a tensor of the checkpoint, box after box.
void read_elements(const Checkpoint& checkpoint, const SavedTensor& tensor, std::int64_t first, View to) {
    Box whole;
    for (int dim = 0; dim < tensor.whole.rank(); ++dim)
        whole.ranges.push_back({0, tensor.whole[dim]});
    auto* memory = static_cast<std::byte*>(to.memory());
    for (const Box& box : boxes_of_run(whole, {first, first + to.count()})) {
        std::vector<std::int64_t> start;
        for (const Range& range : box.ranges)
            start.push_back(range.begin);
        checkpoint.read(tensor.name, start, View(memory, box.shape(), to.dtype));
        memory += box.count() * bytes_of(to.dtype);
    }
}

using Take = std::function<void(const View&)>;

void write_transposed(const Checkpoint& checkpoint, const TheirTensor& tensor, const Take& take) {
    const std::int64_t rows = tensor.shape[1], columns = tensor.columns; // of ours
    std::vector<float> all(static_cast<std::size_t>(rows * columns));
    for (const Run& run : tensor.runs)
        read_elements(checkpoint, *run.ours, run.at,
                      View(all.data() + run.first * columns, {run.count * columns}, DType::f32));
    std::vector<float> row(static_cast<std::size_t>(rows));
    for (std::int64_t c = 0; c < columns; ++c) {
        for (std::int64_t r = 0; r < rows; ++r)
            row[static_cast<std::size_t>(r)] = all[static_cast<std::size_t>(r * columns + c)];
        take(View(row.data(), {rows}, DType::f32));
    }
}

// Filters, whose channels are ours' last and theirs' first, one at a time.
void write_filters(const Checkpoint& checkpoint, const TheirTensor& tensor, const Take& take) {
    const std::int64_t columns = tensor.columns, pixels = columns / tensor.channels;
    std::vector<float> ours(static_cast<std::size_t>(columns)), theirs(ours.size());
    for (std::int64_t i = 0; i < tensor.shape[0]; ++i) {
        read_elements(checkpoint, *tensor.runs[0].ours, i * columns, View(ours.data(), {columns}, DType::f32));
        for (std::int64_t at = 0; at < columns; ++at)
            theirs[static_cast<std::size_t>(at)] =
                ours[static_cast<std::size_t>(at % pixels * tensor.channels + at / pixels)];
        take(View(theirs.data(), {columns}, DType::f32));
    }
}

void write_runs(const Checkpoint& checkpoint, const TheirTensor& tensor, const Take& take) {
    std::vector<float> piece;
    for (const Run& run : tensor.runs) {
        const std::int64_t all = run.count * tensor.columns;
        for (std::int64_t done = 0; done < all;) {
            const std::int64_t count = std::min(all - done, most_elements);
            piece.resize(static_cast<std::size_t>(count));
            const View view(piece.data(), {count}, DType::f32);
            read_elements(checkpoint, *run.ours, run.at + done, view);
            take(view);
            done += count;
        }
    }
}

NewTensor new_tensor(const Checkpoint& checkpoint, const TheirTensor& tensor, DType stored) {
    return {tensor.name, tensor.shape, stored, [&checkpoint, &tensor, stored](const WritePiece& write) {
                const Take take = [&](const View& part) { write(narrow_in_place(part, stored)); };
                if (tensor.transposed)
                    write_transposed(checkpoint, tensor, take);
                else
                    tensor.channels > 0 ? write_filters(checkpoint, tensor, take)
                                        : write_runs(checkpoint, tensor, take);
            }};
}

// Of each file, as full as it may be.
std::vector<std::vector<const TheirTensor*>> shared_out(const std::vector<TheirTensor>& tensors, DType stored,
                                                        std::int64_t most_bytes) {
    std::vector<std::vector<const TheirTensor*>> files(1);
    std::int64_t bytes = 0;
    for (const TheirTensor& tensor : tensors) {
        const std::int64_t more = tensor.shape.count() * bytes_of(stored);
        if (!files.back().empty() && bytes + more > most_bytes) {
            files.emplace_back();
            bytes = 0;
        }
        files.back().push_back(&tensor);
        bytes += more;
    }
    return files;
}

void write_text(const std::string& path, const std::string& text) {
    NewFile file(path);
    file.write(text.data(), static_cast<std::int64_t>(text.size()));
    file.finish();
}

std::string write_tokenizer(const Checkpoint& checkpoint, const Config& config, const HubFamily& family,
                            const std::string& folder) {
    const auto saved = checkpoint.metadata().find("tokenizer");
    return write_hub_tokenizer(
        saved == checkpoint.metadata().end() ? std::string() : saved->second,
        {family.model_type, config.get(training_sequence), shape_in(checkpoint, "embedding.weight")[0]}, folder);
}

} // namespace

HubWritten write_hub_folder(const Checkpoint& checkpoint, const Config& config, const std::string& path,
                            const HubExport& options) {
    const HubFamily& family = family_for(config);
    HubFields fields;
    fields.add("model_type", family.model_type);
    family.fields(config, checkpoint, fields);
    const DType stored = stored_dtype(DType::f32, options.narrow);
    fields.add("torch_dtype", stored == DType::bf16 ? "bfloat16" : "float32");
    const std::vector<TheirTensor> tensors = tensors_of(checkpoint, config, family);
    std::error_code error;
    if (!fs::create_directories(path, error) && (error || !fs::is_empty(path)))
        throw ConfigError(fmt::format("{} {}", path,
                                      error ? "cannot be made: " + error.message()
                                            : std::string("is there already: nothing is overwritten")));
    const auto files = shared_out(tensors, stored, options.most_bytes);
    std::string map;
    std::int64_t total = 0;
    for (std::size_t i = 0; i < files.size(); ++i) {
        const std::string name = files.size() == 1
                                     ? "model.safetensors"
                                     : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, files.size());
        std::vector<NewTensor> in_file;
        for (const TheirTensor* tensor : files[i]) {
            in_file.push_back(new_tensor(checkpoint, *tensor, stored));
            map += fmt::format("{}\n    {}: {}", map.empty() ? "" : ",", json_string(tensor->name), json_string(name));
            total += tensor->shape.count() * bytes_of(stored);
        }
        write_safetensors_file((fs::path(path) / name).string(), {{"format", "pt"}}, in_file);
    }
    if (files.size() > 1)
        write_text(
            (fs::path(path) / "model.safetensors.index.json").string(),
            fmt::format("{{\n  \"metadata\": {{\"total_size\": {}}},\n  \"weight_map\": {{{}\n  }}\n}}\n", total, map));
    HubWritten written{files.size()};
    if (checkpoint.has("embedding.weight")) written.no_tokenizer = write_tokenizer(checkpoint, config, family, path);
    write_text((fs::path(path) / "config.json").string(), fields.text()); // last: with it the folder is one
    return written;
}

} // namespace tessera
