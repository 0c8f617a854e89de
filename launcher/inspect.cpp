// SPDX-License-Identifier: Apache-2.0
// `tessera inspect`: what a checkpoint holds, and whether every byte of it is still what was saved.
#include "core/checkpoint/checkpoint.hpp"
#include "core/checkpoint/describe.hpp"
#include "kernels/error.hpp"
#include "launcher/commands.hpp"

#include <filesystem>
#include <fmt/format.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;

// The checkpoint itself, or the newest one of the run whose folder it is.
std::string checkpoint_folder(const std::string& folder) {
    const fs::path checkpoints = fs::path(folder) / "checkpoints";
    if (!fs::is_directory(checkpoints)) return folder;
    std::vector<std::string> skipped;
    const std::string newest = newest_checkpoint(checkpoints.string(), &skipped);
    for (const std::string& why : skipped)
        fmt::print(stderr, "tessera inspect: passed over: {}\n", why);
    if (newest.empty()) throw ConfigError(fmt::format("{} holds no complete checkpoint", checkpoints.string()));
    return newest;
}

int run_inspect(const Arguments& arguments, Process&) {
    const Checkpoint checkpoint(checkpoint_folder(arguments.words()[0]));
    fmt::print("{}", describe(checkpoint));
    if (!arguments.has("verify")) return 0;
    checkpoint.verify();
    fmt::print("verified: every block is as it was saved\n");
    return 0;
}

} // namespace

Command inspect_command() {
    return {"inspect",
            "show what a checkpoint holds",
            {"inspect [OPTION…] CHECKPOINT|RUN",
             R"(Shows step, ranks, bytes, tensors and metadata of a checkpoint, or of the newest
complete one of a run. Reads no tensor data, unless it is asked to verify.

Examples
  tessera inspect runs/quickstart
  tessera inspect --verify runs/quickstart/checkpoints/step-00000500
)",
             {{"verify", "", "read every block and compare it with its hash"}},
             1,
             1},
            run_inspect};
}

} // namespace tessera
