// SPDX-License-Identifier: Apache-2.0
// Every rank writes its file into a hidden folder, rank 0 the index; rank 0 adds the manifest and publishes it.
#include "core/checkpoint/checkpoint_writer.hpp"

#include "core/checkpoint/durable_files.hpp"
#include "core/checkpoint/rank_file.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <filesystem>
#include <fmt/format.h>
#include <future>
#include <map>
#include <memory>
#include <optional>

namespace tessera {
namespace {

namespace fs = std::filesystem;

// Runs `work` on this rank and hands its texts to rank 0. No rank leaves before all have done their work, and when one
// has failed, all throw the same. Hence the catch: a rank that threw on its own would leave the others waiting for
// ever.
std::vector<std::string> together(const Team& team, const std::string& folder,
                                  const std::function<std::string()>& work) {
    std::string mine;
    try {
        mine = fmt::format(".{}", work());
    } catch (const InternalError& error) {
        mine = fmt::format("!{}", error.what());
    } catch (const std::exception& error) {
        mine = fmt::format("?{}", error.what());
    }
    std::vector<std::string> all = team.gather(mine);
    std::string verdict;
    for (std::size_t rank = 0; rank < all.size(); ++rank) {
        if (all[rank].front() != '.' && verdict.empty())
            verdict = fmt::format("{}checkpoint {} was not saved: rank {}: {}", all[rank].front(), folder, rank,
                                  all[rank].substr(1));
        all[rank].erase(0, 1);
    }
    verdict = team.broadcast(verdict);
    if (verdict.empty()) return all;
    if (verdict.front() == '!') throw InternalError(verdict.substr(1));
    throw SystemError(verdict.substr(1));
}

// Throws InternalError for what a caller must not ask for; the bytes that this rank will write.
std::int64_t check_parts(const CheckpointContent& content) {
    std::int64_t bytes = 0;
    if (content.step < 0) throw InternalError(fmt::format("step {} of a checkpoint", content.step));
    for (const auto& [key, value] : content.metadata)
        if (!is_valid_name(key) || key == "step")
            throw InternalError(fmt::format("'{}' cannot be a key of metadata", key));
    for (const TensorPart& part : content.tensors) {
        const auto refuse = [&](const std::string& reason) {
            throw InternalError(fmt::format("tensor '{}' {}", part.name, reason));
        };
        if (!is_valid_name(part.name)) refuse("has a name that cannot be saved");
        if (part.name == "metadata" || part.name.starts_with("metadata/")) refuse("has the name of the metadata");
        if (part.data.count() == 0) continue;
        const TensorBox box{part.start, part.data.shape};
        if (part.data.shape.rank() != part.whole.rank() || static_cast<int>(part.start.size()) != part.whole.rank())
            refuse(fmt::format("{} is given a box of another number of dims", part.whole.text()));
        for (int dim = 0; dim < part.whole.rank(); ++dim)
            if (part.start[static_cast<std::size_t>(dim)] < 0 || box.end(dim) > part.whole[dim])
                refuse(fmt::format("{} is given the box {}", part.whole.text(), box.text()));
        if (part.data.dtype != part.dtype || part.data.data == nullptr)
            refuse("is given data of another dtype, or none");
        bytes += part.data.bytes();
    }
    return bytes;
}

// The hidden folder; removed again unless it was published.
class UnfinishedFolder {
public:
    UnfinishedFolder(const std::string& path, std::int64_t bytes) {
        const fs::path parent = fs::path(path).parent_path();
        std::error_code error;
        const bool is_new = fs::create_directories(parent, error);
        if (is_new) sync_folder(fs::absolute(parent).parent_path().string());
        if (error) throw SystemError(fmt::format("cannot create {}: {}", parent.string(), error.message()));
        remove_leftovers(parent);
        const fs::space_info space = fs::space(parent, error);
        if (!error && space.available < static_cast<std::uintmax_t>(bytes))
            throw SystemError(fmt::format("{} has {:.1f} MiB free, a checkpoint needs {:.1f} MiB", parent.string(),
                                          static_cast<double>(space.available) / (1 << 20),
                                          static_cast<double>(bytes) / (1 << 20)));
        fs::create_directory(path, error);
        if (error) throw SystemError(fmt::format("cannot create {}: {}", path, error.message()));
        path_ = path;
    }
    UnfinishedFolder(const UnfinishedFolder&) = delete;
    UnfinishedFolder& operator=(const UnfinishedFolder&) = delete;
    ~UnfinishedFolder() {
        std::error_code ignored; // the failure that led here is reported; the next save tries again
        if (!path_.empty()) fs::remove_all(path_, ignored);
    }

    void publish(const std::string& final_path) {
        sync_folder(path_);
        publish_folder(path_, final_path);
        path_.clear();
    }

private:
    static void remove_leftovers(const fs::path& parent) {
        std::error_code error;
        for (const fs::directory_entry& entry : fs::directory_iterator(parent, error)) {
            const std::string name = entry.path().filename().string();
            for (const char* ours : {".tmp-step-", ".del-step-", ".del-old-step-"}) // the last: of one set aside
                if (name.starts_with(ours)) fs::remove_all(entry.path(), error);
        }
    }

    std::string path_;
};

// One manifest of the manifests of all ranks, each of which has one file.
Manifest merge(const std::vector<std::string>& texts, const CheckpointContent& content) {
    Manifest all;
    all.step = content.step;
    all.ranks = static_cast<int>(texts.size());
    all.metadata = content.metadata;
    std::map<std::string, std::size_t> places;
    for (std::size_t rank = 0; rank < texts.size(); ++rank) {
        Manifest one = parse_manifest(texts[rank], fmt::format("the slabs of rank {}", rank));
        all.files.push_back(one.files.front());
        for (TensorEntry& tensor : one.tensors) {
            const auto [place, is_new] = places.emplace(tensor.name, all.tensors.size());
            if (is_new) all.tensors.push_back({{tensor.name, tensor.whole, tensor.dtype}, {}});
            TensorEntry& whole = all.tensors[place->second];
            if (whole.whole != tensor.whole || whole.dtype != tensor.dtype)
                throw InternalError(fmt::format("tensor '{}' is {} {} on one rank and {} {} on rank {}", tensor.name,
                                                whole.whole.text(), name_of(whole.dtype), tensor.whole.text(),
                                                name_of(tensor.dtype), rank));
            for (Slab& slab : tensor.slabs) {
                slab.file = static_cast<int>(rank);
                whole.slabs.push_back(std::move(slab));
            }
        }
    }
    return all;
}

} // namespace

Team team_of_one() {
    return {0, 1, [](const std::string& text) { return std::vector<std::string>{text}; },
            [](const std::string& text) { return text; }, [](bool word) { return word; }};
}

// Work of a thread, and what it is done with. The destructor of a future waits for its thread, so `work` is the last to
// be made and the first to go.
struct CheckpointWriter::Save {
    Team team;
    std::string checkpoints_folder;
    Retention retention;

    RankImage image;                    // this rank's; drawn when the structure changes
    std::vector<std::string> manifests; // rank 0: of all ranks' images
    FileImage index;                    // rank 0
    std::int64_t bytes = 0;
    std::string untidy;

    CheckpointContent content;
    std::string final_path, hidden_path;
    std::unique_ptr<UnfinishedFolder> unfinished; // rank 0's
    std::atomic<bool> given_up = false;
    enum class Stage { idle, writing, publishing } stage = Stage::idle;
    std::future<std::string> work;

    bool first() const { return team.rank == 0; }
    bool ready() const { return !work.valid() || work.wait_for(std::chrono::seconds(0)) == std::future_status::ready; }

    void lay_out();
    std::string write();
    void write_index() const;
    std::string publish(const std::vector<std::string>& slabs);
    bool advance();
    void end();
};

// Rank 0 is told of each rank's bytes and, where it is new, of its structure, as "BYTES" or "BYTES MANIFEST".
void CheckpointWriter::Save::lay_out() {
    const std::vector<std::string> told = together(team, final_path, [&] {
        std::string mine = std::to_string(check_parts(content));
        if (!image.structure.empty() && structure_of(content, first()) == image.structure) return mine;
        image = {};
        image = draw_rank_file(fmt::format("{}/rank-{:05d}.h5", hidden_path, team.rank), content, first());
        return mine + " " + text_of(image.manifest);
    });
    together(team, final_path, [&] {
        if (!first()) return "";
        bool is_new = false;
        bytes = 0;
        manifests.resize(told.size());
        for (std::size_t rank = 0; rank < told.size(); ++rank) {
            const std::size_t end = std::min(told[rank].find(' '), told[rank].size());
            bytes += std::stoll(told[rank].substr(0, end));
            if (end == told[rank].size()) continue;
            manifests[rank] = told[rank].substr(end + 1);
            is_new = true;
        }
        if (is_new) index = {};
        if (index.bytes == 0) {
            const Manifest manifest = merge(manifests, content);
            if (const std::optional<std::string> hole = find_uncovered(manifest)) throw InternalError(*hole);
            index = draw_index_file((fs::path(hidden_path) / index_name).string(), manifest);
        }
        unfinished = std::make_unique<UnfinishedFolder>(hidden_path, bytes);
        return "";
    });
}

void CheckpointWriter::Save::write_index() const {
    File file = File::create((fs::path(hidden_path) / index_name).string());
    index.write(file);
    file.sync();
    file.close();
}

// Of the index nothing depends on what is saved: it is written beside the first file, which a small save would feel.
std::string CheckpointWriter::Save::write() {
    std::future<void> beside;
    if (first()) beside = std::async(std::launch::async, [this] { write_index(); });
    const Manifest manifest =
        write_rank_file(fmt::format("{}/rank-{:05d}.h5", hidden_path, team.rank), image, content, given_up);
    if (first()) beside.get();
    return text_of(manifest);
}

std::string CheckpointWriter::Save::publish(const std::vector<std::string>& slabs) {
    Manifest manifest = merge(slabs, content);
    manifest.index = {std::string(index_name), index.bytes, index.hash()};
    write_synced((fs::path(hidden_path) / manifest_name).string(), text_of(manifest));
    unfinished->publish(final_path);
    try { // the checkpoint is there: that old ones stay must not look like a failure of this one
        remove_old_checkpoints(checkpoints_folder, retention);
    } catch (const SystemError& error) {
        return error.what();
    }
    return "";
}

void CheckpointWriter::Save::end() {
    unfinished.reset();
    content.tensors.clear();
    stage = Stage::idle;
}

bool CheckpointWriter::Save::advance() {
    if (stage == Stage::idle) return true;
    if (!team.all(ready())) return false;
    const auto result = [&] { return work.valid() ? work.get() : ""; };
    try {
        const std::vector<std::string> texts = together(team, final_path, result);
        if (stage == Stage::writing) {
            stage = Stage::publishing;
            if (first()) work = std::async(std::launch::async, [this, texts] { return publish(texts); });
            return false;
        }
        if (first()) untidy = texts.front();
    } catch (...) { // on all ranks alike
        end();
        throw;
    }
    end();
    return true;
}

CheckpointWriter::CheckpointWriter(Team team, std::string checkpoints_folder, const Retention& retention)
    : save_(std::make_unique<Save>()) {
    save_->team = std::move(team);
    save_->checkpoints_folder = std::move(checkpoints_folder);
    save_->retention = retention;
}

CheckpointWriter::~CheckpointWriter() {
    save_->given_up = true;
    if (save_->work.valid()) save_->work.wait();
}

void CheckpointWriter::begin(CheckpointContent content) {
    Save& save = *save_;
    if (save.stage != Save::Stage::idle) throw InternalError("a checkpoint is begun while another is under way");
    const std::string name = fmt::format("step-{:08d}", content.step);
    save.final_path = (fs::path(save.checkpoints_folder) / name).string();
    save.hidden_path = (fs::path(save.checkpoints_folder) / (".tmp-" + name)).string();
    save.content = std::move(content);
    save.untidy.clear();
    try {
        save.lay_out();
        save.stage = Save::Stage::writing;
        together(save.team, save.final_path, [&] { // a thread may be refused on one rank
            save.work = std::async(std::launch::async, [&save] { return save.write(); });
            return "";
        });
    } catch (...) { // on all ranks alike; the next time all of them lay out anew
        if (save.work.valid()) save.work.wait();
        save.work = {};
        save.image = {};
        save.end();
        throw;
    }
}

bool CheckpointWriter::under_way() const { return save_->stage != Save::Stage::idle; }
bool CheckpointWriter::advance() { return save_->advance(); }

void CheckpointWriter::finish() {
    do {
        if (save_->work.valid()) save_->work.wait();
    } while (!save_->advance());
}

std::int64_t CheckpointWriter::bytes() const { return save_->bytes; }
const std::string& CheckpointWriter::untidy() const { return save_->untidy; }

void save_checkpoint(const Team& team, const std::string& checkpoints_folder, const CheckpointContent& content) {
    CheckpointWriter writer(team, checkpoints_folder, {});
    writer.begin(content);
    writer.finish();
}

} // namespace tessera
