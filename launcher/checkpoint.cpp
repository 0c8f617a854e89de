// SPDX-License-Identifier: Apache-2.0
// `tessera checkpoint`: looks into checkpoints, checks, compares and averages them, and exchanges weights with others.
#include "core/checkpoint/average.hpp"
#include "core/checkpoint/damage.hpp"
#include "core/checkpoint/describe.hpp"
#include "core/checkpoint/difference.hpp"
#include "core/exit_codes.hpp"
#include "core/visible.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"
#include "launcher/exchange.hpp"
#include "launcher/setup.hpp"

#include <algorithm>
#include <filesystem>
#include <fmt/format.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr int differs = exit_code::failure, damaged = exit_code::failure;

// The words after "checkpoint NAME", of which there must be from `least` to `most`.
std::vector<std::string> words_of(const Arguments& arguments, std::size_t least, std::size_t most,
                                  const std::string& expected) {
    const std::vector<std::string>& words = arguments.words();
    if (words.size() - 1 < least || words.size() - 1 > most)
        throw ConfigError(fmt::format("checkpoint {}: expected {}", words[0], expected));
    return {words.begin() + 1, words.end()};
}

int inspect(const Arguments& arguments) {
    const Checkpoint checkpoint = open_checkpoint(words_of(arguments, 1, 1, "one checkpoint or run")[0]);
    fmt::print("{}", arguments.has("json") ? describe_json(checkpoint) : describe(checkpoint));
    return 0;
}

// A run's checkpoints, the oldest first, or the folder itself.
std::vector<std::string> folders_at(const std::string& path) {
    const fs::path checkpoints = fs::path(path) / "checkpoints";
    if (!fs::is_directory(checkpoints)) return {path};
    std::vector<std::string> folders;
    for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints))
        if (entry.path().filename().string().starts_with("step-")) folders.push_back(entry.path().string());
    std::sort(folders.begin(), folders.end());
    if (folders.empty()) throw ConfigError(fmt::format("{} holds no checkpoint", checkpoints.string()));
    return folders;
}

int verify(const Arguments& arguments) {
    std::size_t bad = 0;
    const std::vector<std::string> paths = words_of(arguments, 1, 1000, "checkpoints or runs");
    for (const std::string& path : paths)
        for (const std::string& folder : folders_at(path)) {
            const std::vector<std::string> found = damage_of(folder);
            bad += found.empty() ? 0 : 1;
            fmt::print("{}: {}\n", folder, found.empty() ? "whole" : "DAMAGED");
            for (const std::string& sentence : found)
                fmt::print("  {}\n", visible(sentence));
        }
    return bad == 0 ? 0 : damaged;
}

int diff(const Arguments& arguments) {
    const std::vector<std::string> words = words_of(arguments, 2, 2, "two checkpoints or runs");
    const Checkpoint a = open_checkpoint(words[0]), b = open_checkpoint(words[1]);
    const std::vector<TensorDifference> found = compare(a, b);
    fmt::print("{}", visible(describe_differences(a, b, found)));
    return found.empty() ? 0 : differs;
}

int average(const Arguments& arguments) {
    const std::vector<std::string> words = words_of(arguments, 1, 1000, "checkpoints or runs");
    std::vector<Checkpoint> checkpoints;
    for (const std::string& word : words)
        checkpoints.push_back(open_checkpoint(word));
    const Averaged done = average_checkpoints(checkpoints, checkpoints_below(arguments), arguments.has("states"));
    fmt::print("{}: the mean of {} in {} tensors\n", done.folder,
               counted(static_cast<std::int64_t>(words.size()), "checkpoint"), done.averaged.size());
    if (!done.taken.empty()) fmt::print("taken from the latest: {}\n", fmt::join(done.taken, ", "));
    if (!done.left_out.empty())
        fmt::print("left out: {} optimizer states; --states averages these, too, and only then can `train` go on\n",
                   done.left_out.size());
    return 0;
}

int run_checkpoint(const Arguments& arguments, Process&) {
    const std::string& name = arguments.words()[0];
    if (name == "average") return average(arguments);
    if (name == "diff") return diff(arguments);
    if (name == "export") return export_checkpoint(arguments);
    if (name == "import") return import_checkpoint(arguments);
    if (name == "inspect") return inspect(arguments);
    if (name == "verify") return verify(arguments);
    throw ConfigError(
        no_such_name("checkpoint command", name, {"average", "diff", "export", "import", "inspect", "verify"}));
}

} // namespace

Command checkpoint_command() {
    return {"checkpoint",
            "inspect, verify, compare, average, export and import checkpoints",
            {"checkpoint inspect|verify|diff|average|export|import [OPTION…] C…",
             R"(inspect  step, ranks, every tensor with shape, dtype and size, metadata (--json)
verify   reads every block and names what is damaged; exit code 1 if anything is
diff     A B: the tensors that differ, where and how far; exit code 1 if one does
average  the mean of the weights of several, as a new checkpoint in --to RUN
export   the weights in one of five formats; as ONNX the model that they belong
         to, for which its data may have to be found: [section.key=value …]
import   FILE [section.key=value …]: weights from safetensors, llm.c's file or a
         folder of Hugging Face's, as a checkpoint in --to RUN, of the model in
         --config CONFIG; `train` with run.folder=RUN starts from it. A file that
         export wrote has its config, a folder says it: RUN/model.toml.
C is a checkpoint, or the newest of a run's folder (verify: all of them). Nothing
is overwritten. Tensors are read a piece at a time, whatever their size.

Example
  tessera checkpoint export --safetensors gpt.safetensors runs/quickstart
)",
             {{"json", "", "inspect: as one line of JSON"},
              {"safetensors", "FILE", "export: as safetensors"},
              {"hdf5-single", "FILE", "export: as HDF5 with whole datasets"},
              {"hugging-face", "FOLDER", "export: as a folder that transformers loads"},
              {"onnx", "FILE", "export: the model as ONNX, which runtimes compute"},
              {"file-mb", "N", "--hugging-face: of one file at most; default 5000; --onnx: 2000"},
              {"llmc", "FILE", "export: as a model file of llm.c, of a GPT-2"},
              {"dtype", "f32|bf16", "export: store f32 weights as this"},
              {"ema", "", "export: the weights' moving average (training.ema_decay)"},
              {"states", "", "export, average: the optimizer's states, too"},
              {"to", "RUN", "average, import: the run's folder"},
              {"config", "CONFIG", "import: the config of the model"}},
             1,
             1001},
            run_checkpoint};
}

} // namespace tessera
