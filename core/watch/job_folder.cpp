// SPDX-License-Identifier: Apache-2.0
// The folder of a job. failure.json appears whole and once: it is written beside and then linked, which fails where the
// name is taken, on network file systems, too.
#include "core/watch/job_folder.hpp"

#include "core/exit_codes.hpp"
#include "core/json.hpp"
#include "core/run/text_file.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <fcntl.h>
#include <fmt/format.h>
#include <fstream>
#include <functional>
#include <iterator>
#include <sys/file.h>
#include <system_error>
#include <thread>
#include <unistd.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;

fs::path failure_file(const fs::path& run_folder) { return job_folder(run_folder) / "failure.json"; }
fs::path ranks_file(const fs::path& run_folder) { return job_folder(run_folder) / "ranks.json"; }

std::string json(const JobFailure& failure) {
    return fmt::format(
        "{{\"kind\": {}, \"code\": {}, \"rank\": {}, \"host\": {}, \"pid\": {}, \"step\": {}, \"message\": {}, "
        "\"time\": {}, \"job\": {}}}\n",
        json_string(failure.kind), failure.code, failure.place.rank, json_string(failure.place.host), failure.place.pid,
        failure.step, json_string(failure.message), failure.time, json_string(failure.job));
}

// Objects, flat or in one array, entry by entry.
class Entries final : public JsonReader {
public:
    using Take = std::function<void(std::string_view key, std::string_view text, std::int64_t number)>;
    Entries(Take take, std::function<void()> begin) : take_(std::move(take)), begin_(std::move(begin)) {}

    void begin_object() override { begin_(); }
    void key(std::string_view name) override { key_ = name; }
    void end_object() override {}
    void begin_array() override {}
    void end_array() override {}
    void text(std::string_view value) override { take_(key_, value, -1); }
    void number(std::uint64_t value) override { take_(key_, {}, static_cast<std::int64_t>(value)); }
    void other() override {}

private:
    Take take_;
    std::function<void()> begin_;
    std::string key_;
};

// Whether the file is there and is JSON.
bool read_entries(const fs::path& path, Entries entries) {
    std::ifstream file(path, std::ios::binary);
    if (!file) return false;
    const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    try {
        read_json(text, path.string(), entries);
    } catch (const ConfigError&) {
        return false;
    }
    return true;
}

void take_place(RankPlace& place, std::string_view key, std::string_view text, std::int64_t number) {
    if (key == "rank") place.rank = static_cast<int>(number);
    if (key == "host") place.host = text;
    if (key == "pid") place.pid = number;
}

// Of the ranks that ranks.json is about; "" where that is not known.
std::string job_of_ranks(const fs::path& run_folder) {
    std::string job;
    const auto take = [&](std::string_view key, std::string_view text, std::int64_t) {
        if (key == "job") job = text;
    };
    return read_entries(ranks_file(run_folder), {take, [] {}}) ? job : "";
}

// While it lives no other process of this host has one of the folder, where the file system can: not longer than
// somebody would wait for it who has a failure to tell. Needs no file of its own.
class FolderLock {
public:
    explicit FolderLock(const fs::path& folder) : file_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
        constexpr int most_tries = 100;
        for (int i = 0; file_ >= 0 && i < most_tries && ::flock(file_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
             ++i)
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    ~FolderLock() {
        if (file_ >= 0) ::close(file_);
    }
    FolderLock(const FolderLock&) = delete;
    FolderLock& operator=(const FolderLock&) = delete;

private:
    int file_;
};

// Whether the name was free. File systems without links leave the other way that only one can win.
bool appear(const fs::path& made, const fs::path& name, std::string_view text) {
    if (::link(made.c_str(), name.c_str()) == 0) return true;
    if (errno == EEXIST) return false;
    const int file = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (file < 0) return false;
    const bool written = ::write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    return ::close(file) == 0 && written;
}

} // namespace

std::string this_job() {
    const char* const job = std::getenv(job_variable);
    return job == nullptr ? "" : job;
}

std::string_view failure_kind(int code) {
    switch (code) {
    case 2:
        return "config";
    case 3:
        return "data";
    case 4:
        return "lost";
    case 5:
        return "diverged";
    default:
        return "error";
    }
}

JobStart job_start(const fs::path& run_folder) { return {job_of_ranks(run_folder), std::time(nullptr)}; }

fs::path job_folder(const fs::path& run_folder) { return run_folder / "job"; }

bool note_failure(const fs::path& run_folder, JobFailure failure, const JobStart& start) try {
    if (failure.time == 0) failure.time = std::time(nullptr);
    if (failure.job.empty()) failure.job = this_job();
    if (is_of_another_job(run_folder, start)) return false;
    fs::create_directories(job_folder(run_folder));
    const std::string text = json(failure);
    std::error_code ignored;
    const FolderLock lock(job_folder(run_folder)); // or what another rank has just put there is taken for the old one
    const auto before = read_failure(run_folder);
    const bool is_older = failure.job.empty() && before && before->time < start.time;
    if (before &&
        (before->job != failure.job || (is_older && failure.code != exit_code::usage))) // which changes nothing
        fs::remove(failure_file(run_folder), ignored);
    char host[256] = "";
    ::gethostname(host, sizeof host - 1);
    const fs::path made = job_folder(run_folder) / fmt::format(".failure-{}-{}", host, ::getpid());
    TextFile(made, TextFile::Mode::replace).write(text);
    const bool first = appear(made, failure_file(run_folder), text);
    fs::remove(made, ignored);
    return first;
} catch (const std::exception&) { // another failure is being told, which matters more
    return false;
}

std::optional<JobFailure> read_failure(const fs::path& run_folder) {
    JobFailure failure;
    const auto take = [&](std::string_view key, std::string_view text, std::int64_t number) {
        take_place(failure.place, key, text, number);
        if (key == "kind") failure.kind = text;
        if (key == "code") failure.code = static_cast<int>(number);
        if (key == "step") failure.step = number;
        if (key == "message") failure.message = text;
        if (key == "time") failure.time = number;
        if (key == "job") failure.job = text;
    };
    if (!read_entries(failure_file(run_folder), {take, [] {}})) return std::nullopt;
    return failure;
}

void write_ranks(const fs::path& run_folder, const std::vector<RankPlace>& ranks) {
    std::error_code error;
    fs::create_directories(job_folder(run_folder), error);
    if (error) throw SystemError(fmt::format("cannot make {}: {}", job_folder(run_folder).string(), error.message()));
    const std::optional<JobFailure> before = read_failure(run_folder);
    const auto is_of_this_job = [&](const RankPlace& place) {
        return place.host == before->place.host && place.pid == before->place.pid;
    };
    if (before && (before->job != this_job() || std::ranges::none_of(ranks, is_of_this_job))) {
        fs::remove(failure_file(run_folder), error);
        fs::remove(job_folder(run_folder) / "verdict.txt", error);
    }
    std::string text = fmt::format("{{\"world\": {}, \"job\": {}, \"ranks\": [", ranks.size(), json_string(this_job()));
    for (const RankPlace& place : ranks)
        text += fmt::format("{}\n  {{\"rank\": {}, \"host\": {}, \"pid\": {}}}", &place == ranks.data() ? "" : ",",
                            place.rank, json_string(place.host), place.pid);
    replace_file(ranks_file(run_folder), text + "\n]}\n");
}

bool is_of_another_job(const fs::path& run_folder, const JobStart& start) {
    const std::string job = job_of_ranks(run_folder);
    return !job.empty() && job != this_job() && job != start.before;
}

std::vector<RankPlace> read_ranks(const fs::path& run_folder) {
    std::vector<RankPlace> objects; // the first is the whole
    const auto take = [&](std::string_view key, std::string_view text, std::int64_t number) {
        if (!objects.empty()) take_place(objects.back(), key, text, number);
    };
    if (!read_entries(ranks_file(run_folder), {take, [&] { objects.emplace_back(); }}) || objects.empty()) return {};
    objects.erase(objects.begin());
    return objects;
}

void clear_job_folder(const fs::path& run_folder) {
    std::error_code error;
    fs::remove_all(job_folder(run_folder), error);
    if (error) throw SystemError(fmt::format("cannot remove {}: {}", job_folder(run_folder).string(), error.message()));
}

fs::path set_job_folder_aside(const fs::path& run_folder) {
    std::error_code error;
    if (!fs::exists(job_folder(run_folder), error)) return {};
    for (int number = 1;; ++number) {
        const fs::path aside = run_folder / fmt::format("job.{}", number);
        if (fs::exists(aside, error)) continue;
        fs::rename(job_folder(run_folder), aside, error);
        if (error)
            throw SystemError(fmt::format("cannot move {} to {}: {}", job_folder(run_folder).string(), aside.string(),
                                          error.message()));
        return aside;
    }
}

} // namespace tessera
