// SPDX-License-Identifier: Apache-2.0
// Pieces are gathered until they are worth a file; each file is written as a rank's.
#include "core/checkpoint/streamed_save.hpp"

#include "core/checkpoint/durable_files.hpp"
#include "core/checkpoint/rank_file.hpp"
#include "kernels/error.hpp"

#include <filesystem>
#include <fmt/format.h>
#include <optional>

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t bytes_of_file = 64 << 20;

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

class FileAfterFile {
public:
    FileAfterFile(const HiddenFolder& folder, std::int64_t step, const std::map<std::string, std::string>& metadata)
        : folder_(folder) {
        content_.step = manifest_.step = step;
        content_.metadata = manifest_.metadata = metadata;
    }

    void add(const TensorSource& source) {
        places_.emplace(source.tensor.name, manifest_.tensors.size());
        manifest_.tensors.push_back({source.tensor, {}});
        for (const TensorPiece& piece : pieces_of(source.tensor.whole, source.tensor.dtype)) {
            memory_.emplace_back();
            const View part = memory_.back().view(piece, source.tensor.dtype);
            source.fill(piece, part);
            content_.tensors.push_back(
                {source.tensor.name, source.tensor.whole, source.tensor.dtype, piece.box.start, part});
            bytes_ += part.bytes();
            if (bytes_ >= bytes_of_file) write();
        }
    }

    Manifest finish() {
        if (!content_.tensors.empty() || manifest_.files.empty()) write();
        manifest_.ranks = static_cast<int>(manifest_.files.size());
        return std::move(manifest_);
    }

private:
    void write() {
        const auto number = static_cast<int>(manifest_.files.size());
        Manifest one = write_rank_file(folder_.path(fmt::format("rank-{:05d}.h5", number)), content_, number == 0);
        manifest_.files.push_back(one.files.front());
        for (TensorEntry& tensor : one.tensors)
            for (Slab& slab : tensor.slabs) {
                slab.file = number;
                manifest_.tensors[places_.at(tensor.name)].slabs.push_back(std::move(slab));
            }
        content_.tensors.clear();
        memory_.clear();
        bytes_ = 0;
    }

    const HiddenFolder& folder_;
    CheckpointContent content_;
    Manifest manifest_;
    std::map<std::string, std::size_t> places_; // of tensors in the manifest
    std::vector<PieceMemory> memory_;
    std::int64_t bytes_ = 0;
};

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
    FileAfterFile files(hidden, step, metadata);
    for (const TensorSource& source : sources)
        files.add(source);
    Manifest manifest = files.finish();
    if (const std::optional<std::string> hole = find_uncovered(manifest)) throw InternalError(*hole);
    manifest.index = write_index_file(hidden.path(std::string(index_name)), manifest);
    write_synced(hidden.path(std::string(manifest_name)), text_of(manifest));
    hidden.publish(final_path);
    return final_path;
}

} // namespace tessera
