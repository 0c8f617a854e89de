// SPDX-License-Identifier: Apache-2.0
// Checkpoint: a manifest, and the ranks' files opened as boxes are asked for.
#include "core/checkpoint/checkpoint.hpp"
#include "core/checkpoint/durable_files.hpp"
#include "core/checkpoint/rank_file.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <filesystem>
#include <fmt/format.h>
#include <future>
#include <map>
#include <vector>

namespace tessera {

namespace fs = std::filesystem;

constexpr std::size_t most_open_files = 64;
constexpr std::size_t blocks_ahead = 8;   // that the disk is asked for before they are read
constexpr std::size_t blocks_for_two = 4; // worth a second thread: to hash a block takes as long as to copy it

// A thousand ranks with a thousand tensors each need 100 MB.
constexpr std::int64_t greatest_manifest_bytes = std::int64_t{1} << 30;

namespace {

// What lies at `path` itself, which may be nothing. SystemError when the system does not say.
fs::file_status status_at(const std::string& path) {
    std::error_code error;
    const fs::file_status status = fs::symlink_status(path, error);
    if (status.type() == fs::file_type::none)
        throw SystemError(fmt::format("cannot look at {}: {}", path, error.message()));
    return status;
}

} // namespace

struct Checkpoint::Opened {
    struct OpenFile {
        RankFile file;
        std::int64_t last_use = 0;
    };

    std::string folder;
    Manifest manifest;
    std::vector<SavedTensor> tensors;
    std::map<std::string, const TensorEntry*, std::less<>> by_name;
    std::map<int, OpenFile> files; // by their place in the manifest
    std::int64_t uses = 0;
    std::vector<std::byte> block, other_block; // of each thread
    std::int64_t bytes_read = 0;

    std::string path_of(std::string_view name) const { return (fs::path(folder) / name).string(); }

    const TensorEntry& tensor_named(std::string_view name) const {
        const auto found = by_name.find(name);
        if (found != by_name.end()) return *found->second;
        std::vector<std::string_view> known;
        for (const SavedTensor& tensor : tensors)
            known.emplace_back(tensor.name);
        throw ConfigError(fmt::format("checkpoint {}: {}", folder, no_such_name("tensor", name, known)));
    }

    // Open until the next call. The one that was not used for longest makes room.
    RankFile& file_at(int place) {
        auto found = files.find(place);
        if (found == files.end()) {
            if (files.size() == most_open_files)
                files.erase(std::min_element(files.begin(), files.end(), [](const auto& a, const auto& b) {
                    return a.second.last_use < b.second.last_use;
                }));
            const std::string path = path_of(manifest.files[static_cast<std::size_t>(place)].name);
            found = files.emplace(place, OpenFile{RankFile(path, manifest, place)}).first;
        }
        found->second.last_use = ++uses;
        return found->second.file;
    }

    // Reads each block of the slab that meets `wanted` and copies what is wanted to `target`, a row-major array of it;
    // null: the blocks are looked at only.
    void read_slab(const TensorEntry& tensor, const Slab& slab, const TensorBox& wanted, std::byte* target) {
        if (intersection(slab.box, wanted).count.count() == 0) return;
        const RankFile& file = file_at(slab.file);
        const Blocks blocks(slab.box.count, tensor.dtype);
        const auto box_of = [&](std::int64_t number) {
            TensorBox box = blocks.box(number);
            for (std::size_t dim = 0; dim < box.start.size(); ++dim)
                box.start[dim] += slab.box.start[dim];
            return box;
        };
        std::vector<std::int64_t> numbers;
        for (std::int64_t number = 0; number < blocks.size(); ++number)
            if (intersection(box_of(number), wanted).count.count() > 0) numbers.push_back(number);
        for (std::size_t i = 0; numbers.size() > 1 && i < std::min(blocks_ahead, numbers.size()); ++i)
            file.expect_block(tensor, slab, numbers[i]);
        const std::int64_t size = bytes_of(tensor.dtype);
        std::atomic<std::size_t> next{0};
        const auto read_blocks = [&](std::vector<std::byte>& room) {
            for (std::size_t i; (i = next++) < numbers.size();) {
                if (i + blocks_ahead < numbers.size()) file.expect_block(tensor, slab, numbers[i + blocks_ahead]);
                const TensorBox box = box_of(numbers[i]), common = intersection(box, wanted);
                const std::int64_t count = box.count.count();
                const auto run = place_of_run(common, wanted);
                if (target != nullptr && run && common.count == box.count) { // the block goes where it is wanted
                    file.read_block(tensor, slab, numbers[i], target + *run * size);
                    continue;
                }
                room.resize(std::max(room.size(), static_cast<std::size_t>(count * size)));
                file.read_block(tensor, slab, numbers[i], room.data());
                if (target != nullptr) copy_region(common, room.data(), box, target, wanted, size);
            }
        };
        for (const std::int64_t number : numbers)
            bytes_read += box_of(number).count.count() * size;
        if (numbers.size() < blocks_for_two) return read_blocks(block);
        std::future<void> other = std::async(std::launch::async, [&] { read_blocks(other_block); });
        std::exception_ptr failure;
        try {
            read_blocks(block);
        } catch (...) { // the other thread first comes to its end
            failure = std::current_exception();
            next = numbers.size();
        }
        other.wait();
        if (failure) std::rethrow_exception(failure);
        other.get();
    }
};

Checkpoint::Checkpoint(const std::string& folder) : opened_(std::make_unique<Opened>()) {
    opened_->folder = folder;
    const std::string manifest_path = opened_->path_of(manifest_name);
    if (!fs::is_directory(status_at(opened_->path_of(".")))) // of what a link leads to
        throw ConfigError(fmt::format("there is no checkpoint folder {}", folder));
    if (!fs::is_regular_file(status_at(manifest_path)))
        throw ConfigError(fmt::format("{} is not a complete checkpoint: it has no MANIFEST", folder));
    const File file = File::open_to_read(manifest_path);
    if (file.bytes() > greatest_manifest_bytes)
        throw ConfigError(fmt::format("{} has {} bytes, which no MANIFEST has", manifest_path, file.bytes()));
    std::string text(static_cast<std::size_t>(file.bytes()), '\0');
    file.read_at(0, text.data(), static_cast<std::int64_t>(text.size()));
    Manifest& manifest = opened_->manifest;
    manifest = parse_manifest(text, manifest_path);
    if (manifest.files.size() != static_cast<std::size_t>(manifest.ranks) || manifest.index.name.empty())
        throw ConfigError(fmt::format("{}: {} files for {} ranks, or no index", manifest_path, manifest.files.size(),
                                      manifest.ranks));
    if (const std::optional<std::string> hole = find_uncovered(manifest))
        throw ConfigError(fmt::format("{}: {}", manifest_path, *hole));
    const auto check_size = [&](const FileEntry& entry) {
        const std::string path = opened_->path_of(entry.name);
        if (!fs::is_regular_file(status_at(path)))
            throw ConfigError(fmt::format("checkpoint {}: file {} is missing", folder, entry.name));
        std::error_code error;
        const std::uintmax_t bytes = fs::file_size(path, error);
        if (error) throw SystemError(fmt::format("cannot look at {}: {}", path, error.message()));
        if (bytes != static_cast<std::uintmax_t>(entry.bytes))
            throw ConfigError(
                fmt::format("{} has {} bytes, its checkpoint's MANIFEST states {}", path, bytes, entry.bytes));
    };
    for (const FileEntry& entry : manifest.files)
        check_size(entry);
    check_size(manifest.index);
    for (const TensorEntry& tensor : manifest.tensors) {
        opened_->tensors.push_back(tensor);
        opened_->by_name.emplace(tensor.name, &tensor);
    }
}

Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

const std::string& Checkpoint::folder() const { return opened_->folder; }
std::int64_t Checkpoint::step() const { return opened_->manifest.step; }
int Checkpoint::ranks() const { return opened_->manifest.ranks; }
const std::map<std::string, std::string>& Checkpoint::metadata() const { return opened_->manifest.metadata; }
const std::vector<SavedTensor>& Checkpoint::tensors() const { return opened_->tensors; }
bool Checkpoint::has(std::string_view name) const { return opened_->by_name.contains(name); }
std::int64_t Checkpoint::bytes_read() const { return opened_->bytes_read; }

void Checkpoint::require(std::string_view name, const Shape& whole, DType dtype) const {
    const TensorEntry& tensor = opened_->tensor_named(name);
    if (tensor.whole != whole || tensor.dtype != dtype)
        throw ConfigError(fmt::format("checkpoint {}: tensor '{}' is {} {}, the model wants {} {}", opened_->folder,
                                      name, tensor.whole.text(), name_of(tensor.dtype), whole.text(), name_of(dtype)));
}

void Checkpoint::read(std::string_view name, const std::vector<std::int64_t>& start, View part) const {
    const TensorEntry& tensor = opened_->tensor_named(name);
    const TensorBox wanted{start, part.shape};
    bool fits = part.shape.rank() == tensor.whole.rank() && start.size() == static_cast<std::size_t>(part.shape.rank());
    for (int dim = 0; fits && dim < part.shape.rank(); ++dim)
        fits = start[static_cast<std::size_t>(dim)] >= 0 &&
               start[static_cast<std::size_t>(dim)] <= tensor.whole[dim] - part.shape[dim];
    if (!fits || part.dtype != tensor.dtype)
        throw ConfigError(fmt::format("checkpoint {}: tensor '{}' is {} {}, the model wants {} {}", opened_->folder,
                                      name, tensor.whole.text(), name_of(tensor.dtype), wanted.text(),
                                      name_of(part.dtype)));
    for (const Slab& slab : tensor.slabs)
        opened_->read_slab(tensor, slab, wanted, static_cast<std::byte*>(part.memory()));
}

void Checkpoint::verify() const {
    const std::string index_path = opened_->path_of(opened_->manifest.index.name);
    if (hash_outside(File::open_to_read(index_path), {}) != opened_->manifest.index.hash)
        throw ConfigError(fmt::format("{} is damaged: it does not have the hash in MANIFEST", index_path));
    for (int file = 0; file < static_cast<int>(opened_->manifest.files.size()); ++file)
        RankFile(opened_->path_of(opened_->manifest.files[static_cast<std::size_t>(file)].name), opened_->manifest,
                 file);
    for (const TensorEntry& tensor : opened_->manifest.tensors)
        for (const Slab& slab : tensor.slabs)
            opened_->read_slab(tensor, slab, slab.box, nullptr);
}

} // namespace tessera
