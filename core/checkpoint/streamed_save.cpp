// SPDX-License-Identifier: Apache-2.0
// The file of one rank, drawn for all tensors, and filled with one block after the other.
#include "core/checkpoint/streamed_save.hpp"

#include "core/checkpoint/durable_files.hpp"
#include "core/checkpoint/rank_file.hpp"
#include "kernels/error.hpp"

#include <filesystem>
#include <fmt/format.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;

// The hidden folder; removed again unless it was published.
class HiddenFolder {
public:
    explicit HiddenFolder(std::string path) : path_(std::move(path)) {
        std::error_code error;
        fs::create_directories(fs::path(path_).parent_path(), error);
        if (!error) fs::remove_all(path_, error); // an interrupted save's
        if (!error) fs::create_directory(path_, error);
        if (error) throw SystemError(fmt::format("cannot create {}: {}", path_, error.message()));
    }
    HiddenFolder(const HiddenFolder&) = delete;
    HiddenFolder& operator=(const HiddenFolder&) = delete;
    ~HiddenFolder() {
        std::error_code ignored; // the failure that led here is reported
        if (!path_.empty()) fs::remove_all(path_, ignored);
    }

    std::string path(const std::string& name) const { return (fs::path(path_) / name).string(); }
    void publish(const std::string& final_path) {
        sync_folder(path_);
        publish_folder(path_, final_path);
        path_.clear();
    }

private:
    std::string path_;
};

// The file that one rank with all tensors would write.
Manifest write_in_pieces(const std::string& path, const CheckpointContent& content,
                         const std::vector<TensorSource>& sources) {
    RankImage image = draw_rank_file(path, content, true);
    for (const auto& [key, first] : image.texts)
        if (key != "step") image.file.put(first, content.metadata.at(key));
    image.file.put(image.texts.at("step"), {reinterpret_cast<const char*>(&content.step), sizeof content.step});
    File file = File::create(path);
    image.file.write(file);
    PieceMemory memory;
    for (std::size_t number = 0; number < sources.size(); ++number) {
        const SavedTensor& tensor = sources[number].tensor;
        if (tensor.whole.count() == 0) continue;
        Slab& slab = image.manifest.tensors[number].slabs.front();
        const Blocks blocks(tensor.whole, tensor.dtype);
        for (std::int64_t block = 0; block < blocks.size(); ++block) {
            const std::int64_t first_byte = blocks.first_byte(block);
            const TensorPiece piece{blocks.box(block), first_byte / bytes_of(tensor.dtype)};
            const View part = memory.view(piece, tensor.dtype);
            sources[number].fill(piece, part);
            slab.block_hashes[static_cast<std::size_t>(block)] = Hash::of(part.data, part.bytes());
            file.write_at(slab.first_byte + first_byte, part.data, part.bytes());
        }
    }
    file.sync();
    file.close();
    image.manifest.files.front().hash = image.file.hash();
    return std::move(image.manifest);
}

FileEntry write_index(const std::string& path, const Manifest& manifest) {
    const FileImage index = draw_index_file(path, manifest);
    File file = File::create(path);
    index.write(file);
    file.sync();
    file.close();
    return {std::string(index_name), index.bytes, index.hash()};
}

} // namespace

std::string save_in_pieces(const std::string& checkpoints_folder, std::int64_t step,
                           const std::map<std::string, std::string>& metadata,
                           const std::vector<TensorSource>& sources) {
    const std::string name = fmt::format("step-{:08d}", step);
    const std::string final_path = (fs::path(checkpoints_folder) / name).string();
    std::error_code error;
    if (fs::exists(fs::symlink_status(final_path, error)))
        throw ConfigError(fmt::format("{} is there already: nothing is overwritten", final_path));
    HiddenFolder hidden((fs::path(checkpoints_folder) / (".tmp-" + name)).string());
    CheckpointContent content{step, metadata, {}};
    for (const auto& [tensor, fill] : sources) { // only their structure is drawn: no data are looked at
        const TensorBox box = whole_box(tensor.whole);
        content.tensors.push_back(
            {tensor.name, tensor.whole, tensor.dtype, box.start, {nullptr, box.count, tensor.dtype}});
    }
    Manifest manifest = write_in_pieces(hidden.path("rank-00000.h5"), content, sources);
    manifest.step = step;
    manifest.ranks = 1;
    manifest.metadata = metadata;
    manifest.index = write_index(hidden.path(std::string(index_name)), manifest);
    write_synced(hidden.path(std::string(manifest_name)), text_of(manifest));
    hidden.publish(final_path);
    return final_path;
}

} // namespace tessera
