// SPDX-License-Identifier: Apache-2.0
// The step-… folders of a run: which is the newest that opens, and which are old enough to go.
#include "core/checkpoint/checkpoint.hpp"
#include "core/checkpoint/durable_files.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fmt/format.h>
#include <optional>

namespace tessera {
namespace {

namespace fs = std::filesystem;

std::optional<std::int64_t> step_of(const std::string& name) {
    constexpr std::string_view prefix = "step-";
    if (!name.starts_with(prefix)) return {};
    std::int64_t step = 0;
    const char* end = name.data() + name.size();
    const auto [stop, error] = std::from_chars(name.data() + prefix.size(), end, step);
    if (error != std::errc() || stop != end || step < 0) return {};
    return step;
}

// Paths of step-… folders, the newest first. None when there is no such folder. A folder that cannot be listed must not
// look like one without checkpoints: the run would start anew.
std::vector<std::string> step_folders(const std::string& checkpoints_folder) {
    std::vector<std::pair<std::int64_t, std::string>> found;
    std::error_code error;
    for (fs::directory_iterator entry(checkpoints_folder, error); !error && entry != fs::directory_iterator();
         entry.increment(error))
        if (const auto step = step_of(entry->path().filename().string()))
            found.emplace_back(*step, entry->path().string());
    if (error && error != std::errc::no_such_file_or_directory)
        throw SystemError(fmt::format("cannot list {}: {}", checkpoints_folder, error.message()));
    std::sort(found.rbegin(), found.rend());
    std::vector<std::string> paths;
    for (auto& [step, path] : found)
        paths.push_back(std::move(path));
    return paths;
}

// Why the folder is no complete checkpoint; nothing when it is one. Damage of one checkpoint must not hide the one
// before. A SystemError passes on: it says nothing about the checkpoint, which must be neither passed over nor counted.
std::optional<std::string> reason_against(const std::string& folder) {
    try {
        const Checkpoint checkpoint(folder);
        return {};
    } catch (const ConfigError& error) {
        return error.what();
    }
}

} // namespace

std::string newest_checkpoint(const std::string& checkpoints_folder, std::vector<std::string>* skipped,
                              std::int64_t before) {
    for (const std::string& folder : step_folders(checkpoints_folder)) {
        if (*step_of(fs::path(folder).filename().string()) >= before) continue;
        const std::optional<std::string> reason = reason_against(folder);
        if (!reason) return folder;
        if (skipped != nullptr) skipped->push_back(*reason);
    }
    return "";
}

std::int64_t count_checkpoints(const std::string& checkpoints_folder) {
    return static_cast<std::int64_t>(step_folders(checkpoints_folder).size());
}

void remove_old_checkpoints(const std::string& checkpoints_folder, const Retention& retention) {
    if (retention.latest <= 0) return;
    std::int64_t complete = 0;
    bool found = retention.newest_of.empty();
    for (const std::string& folder : step_folders(checkpoints_folder)) {
        const std::int64_t step = *step_of(fs::path(folder).filename().string());
        const bool wanted = !found && std::ranges::any_of(retention.newest_of, [&](std::int64_t steps) {
            return steps > 0 && step % steps == 0;
        });
        if (complete < retention.latest || wanted) {
            if (reason_against(folder)) continue;
            ++complete;
            found |= wanted;
            continue;
        }
        if (retention.every <= 0 || step % retention.every != 0) remove_folder(folder);
    }
}

std::vector<std::string> set_aside_checkpoints_after(const std::string& checkpoints_folder, std::int64_t step) {
    std::vector<std::string> aside;
    for (const std::string& folder : step_folders(checkpoints_folder)) {
        const fs::path path(folder);
        if (*step_of(path.filename().string()) <= step) continue;
        aside.push_back((path.parent_path() / ("old-" + path.filename().string())).string());
        if (fs::exists(aside.back())) remove_folder(aside.back());
        std::error_code error;
        fs::rename(path, aside.back(), error);
        if (error) throw SystemError(fmt::format("cannot rename {} to {}: {}", folder, aside.back(), error.message()));
    }
    return aside;
}

} // namespace tessera
