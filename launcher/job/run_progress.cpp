// SPDX-License-Identifier: Apache-2.0
// Sizes, times and tails of files.
#include "launcher/job/run_progress.hpp"

#include <algorithm>
#include <cstdlib>
#include <fmt/format.h>
#include <fstream>
#include <sstream>

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t tail = 65'536; // bytes of a file that are looked at

std::uintmax_t size_of(const fs::path& path) {
    std::error_code error;
    const std::uintmax_t size = fs::file_size(path, error);
    return error ? 0 : size;
}

std::string text_after(const fs::path& path, std::uintmax_t offset) {
    std::ifstream file(path, std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset));
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

std::optional<RunProgress::Clock::time_point> time_of(const fs::path& path) {
    std::error_code error;
    const fs::file_time_type time = fs::last_write_time(path, error);
    if (error) return std::nullopt;
    return std::chrono::time_point_cast<RunProgress::Clock::duration>(std::chrono::file_clock::to_sys(time));
}

} // namespace

RunProgress::RunProgress(fs::path run_folder, std::int64_t ranks) : folder_(std::move(run_folder)) {
    for (std::int64_t rank = 0; rank < ranks; ++rank)
        log_sizes_.push_back(size_of(log_of(rank)));
}

fs::path RunProgress::log_of(std::int64_t rank) const { return folder_ / "logs" / fmt::format("rank-{:04}.log", rank); }

void RunProgress::look() {
    if (stepped_) return;
    if (!known_) {
        if (!fs::exists(job_folder(folder_) / "ranks.json")) return;
        known_ = time_of(job_folder(folder_) / "ranks.json");
    }
    const fs::path metrics = folder_ / "metrics.jsonl";
    if (!loaded_) { // the last line before the first step
        if (text_after(log_of(0), log_sizes_[0]).find("memory per rank: planned") == std::string::npos) return;
        loaded_ = Clock::now();
        metrics_size_ = size_of(metrics);
    }
    if (size_of(metrics) > metrics_size_) stepped_ = time_of(metrics);
}

std::int64_t RunProgress::last_step() const {
    const fs::path path = folder_ / "metrics.jsonl";
    const std::uintmax_t size = size_of(path);
    const std::string text = text_after(path, size > tail ? size - tail : 0);
    constexpr std::string_view key = "\"step\":";
    std::int64_t last = 0; // a record of a checkpoint may come after those of later steps
    for (std::size_t at = text.find(key); at != std::string::npos; at = text.find(key, at + 1))
        if (text.find('\n', at) != std::string::npos) // a whole record
            last = std::max<std::int64_t>(last, std::atoll(text.c_str() + at + key.size()));
    return last;
}

std::optional<RunProgress::Clock::time_point> RunProgress::last_sign() const {
    return time_of(folder_ / "metrics.jsonl");
}

std::vector<RankWord> RunProgress::words() const {
    std::vector<RankWord> all;
    for (std::size_t rank = 1; rank < log_sizes_.size(); ++rank) {
        const fs::path path = log_of(static_cast<std::int64_t>(rank));
        const std::uintmax_t size = size_of(path);
        const std::uintmax_t from = std::max(log_sizes_[rank], size > tail ? size - tail : 0);
        if (from >= size) continue;
        for (RankWord& word : read_rank_words(text_after(path, from)))
            all.push_back(std::move(word));
    }
    return all;
}

} // namespace tessera
