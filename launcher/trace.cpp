// SPDX-License-Identifier: Apache-2.0
// `tessera trace`: one file for Perfetto of what the ranks of a run have recorded.
#include "core/json.hpp"
#include "core/run/text_file.hpp"
#include "core/with_thousands.hpp"
#include "kernels/error.hpp"
#include "launcher/commands.hpp"

#include <algorithm>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <map>
#include <vector>

namespace tessera {
namespace {

namespace fs = std::filesystem;

// Takes the whole numbers of one flat object; refuses nothing that is JSON.
class Numbers final : public JsonReader {
public:
    void begin_object() override {}
    void key(std::string_view name) override { key_ = name; }
    void end_object() override {}
    void begin_array() override {}
    void end_array() override {}
    void text(std::string_view) override {}
    void number(std::uint64_t value) override { found_[key_] = static_cast<std::int64_t>(value); }
    void other() override {}

    std::int64_t operator[](const std::string& name) const {
        const auto at = found_.find(name);
        return at == found_.end() ? -1 : at->second;
    }

private:
    std::string key_;
    std::map<std::string, std::int64_t> found_;
};

struct RankFile {
    fs::path path;
    std::int64_t rank = -1, ranks = -1;
};

// The first line tells whose it is.
RankFile open_rank(const fs::path& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    Numbers header;
    read_json(line, path.string() + ":1", header);
    const RankFile found{path, header["rank"], header["ranks"]};
    if (found.rank < 0 || found.ranks < 1)
        throw ConfigError(fmt::format("{}:1: this is no rank's trace: rank and ranks are missing", path.string()));
    return found;
}

std::vector<RankFile> files_of(const fs::path& run) {
    const fs::path folder = run / "trace";
    std::vector<RankFile> files;
    std::error_code error;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
        const std::string name = entry.path().filename().string();
        if (name.starts_with("rank-") && name.ends_with(".jsonl")) files.push_back(open_rank(entry.path()));
    }
    if (files.empty())
        throw ConfigError(fmt::format("{} holds no trace: train with run.trace_steps=[FIRST,LAST]", folder.string()));
    std::ranges::sort(files, {}, &RankFile::rank);
    for (std::size_t i = 0; i < files.size(); ++i)
        if (files[i].ranks != std::ssize(files) || files[i].rank != static_cast<std::int64_t>(i))
            throw ConfigError(
                fmt::format("{}: of {} ranks, but there are {} files: traces of several runs, or some are "
                            "missing (is the folder shared by all hosts?)",
                            files[i].path.string(), files[i].ranks, files.size()));
    return files;
}

// The spans of all ranks into `out`; how many.
std::int64_t merge(const std::vector<RankFile>& files, TextFile& out) {
    std::int64_t events = 0;
    out.write("{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n");
    for (const RankFile& one : files) {
        std::ifstream file(one.path);
        std::string line, piece;
        for (std::int64_t number = 1; std::getline(file, line); ++number) {
            if (number == 1) continue;
            Numbers event; // refuses what is no JSON
            read_json(line, fmt::format("{}:{}", one.path.string(), number), event);
            piece += (events++ == 0 ? "" : ",\n") + line;
            if (piece.size() < 1 << 20) continue;
            out.write(piece);
            piece.clear();
        }
        out.write(piece);
    }
    out.write("\n]}\n");
    return events;
}

int run_trace(const Arguments& arguments, Process&) {
    const fs::path run = arguments.words()[0];
    const std::vector<RankFile> files = files_of(run);
    const std::string path = arguments.text("output").value_or((run / "trace" / "trace.json").string());
    const std::string fresh = path + ".new";
    TextFile out(fresh, TextFile::Mode::replace);
    const std::int64_t events = merge(files, out);
    std::error_code error;
    fs::rename(fresh, path, error);
    if (error) throw SystemError(fmt::format("cannot name {}: {}", path, error.message()));
    fmt::print("{}: {} events of {}; open it at https://ui.perfetto.dev\n", path, with_thousands(events),
               counted(std::ssize(files), "rank"));
    return 0;
}

} // namespace

Command trace_command() {
    return {"trace",
            "make one file for Perfetto of the steps that a run has traced",
            {"trace [OPTION…] RUN",
             R"(A run with run.trace_steps=[FIRST,LAST] records what each rank does in these
steps: operations with phase and layer, collectives with axis and bytes, reading,
saving, evaluation. This puts the ranks' files, RUN/trace/rank-NNNN.jsonl, into one
that https://ui.perfetto.dev and chrome://tracing open. All ranks are on rank 0's
clock, compared before and after. On GPUs spans are the host's, which hands work
on and waits: kernels themselves are shown by Nsight Systems.

Example
  tessera launch -n 4 configs/quickstart.toml run.trace_steps=[10,12]
  tessera trace runs/quickstart
)",
             {{"output,o", "FILE", "(default: RUN/trace/trace.json)"}},
             1,
             1},
            run_trace};
}

} // namespace tessera
