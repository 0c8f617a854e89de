// SPDX-License-Identifier: Apache-2.0
// `tessera generate`: text from a trained language model.
#include "core/run/generation.hpp"
#include "core/run/weights.hpp"
#include "kernels/error.hpp"
#include "launcher/setup.hpp"

#include <cstdio>
#include <cstdlib>
#include <fmt/core.h>

namespace tessera {
namespace {

double number(const Arguments& arguments, const std::string& option, double fallback) {
    const std::optional<std::string> text = arguments.text(option);
    if (!text) return fallback;
    char* end = nullptr;
    const double value = std::strtod(text->c_str(), &end);
    if (end == text->c_str() || *end != '\0' || !(value >= 0))
        throw ConfigError(fmt::format("--{}: '{}' is no number of at least 0", option, *text));
    return value;
}

int run_generate(const Arguments& arguments, Process&) {
    const Checkpoint checkpoint = open_checkpoint(arguments.words()[0]);
    const Config config = config_of(checkpoint, {});
    if (config.get(model_type) != "gpt") config.refuse(model_type.name, "writes no text, as a language model does");
    const std::string saved = metadata_of(checkpoint, "tokenizer");
    if (saved.empty())
        throw ConfigError(
            fmt::format("checkpoint {} holds no tokenizer: its data were token ids", checkpoint.folder()));
    const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::load(saved);
    Stream stream = make_stream(config, nullptr);
    const Experiment experiment = plan_generation(config, tokenizer->vocabulary_size(), stream);
    const Program& program = experiment.generate;
    Groups groups(program.layout.mesh);
    const Memory memory(experiment.memory, program.layout, groups, stream);
    Executor executor(program.layout, program.plan, memory, groups, stream);
    restore_tensors(checkpoint, program, executor);

    const SamplingOptions options{.tokens = arguments.integer("tokens", 1, 1 << 30).value_or(200),
                                  .temperature = number(arguments, "temperature", 0.8),
                                  .top_k = arguments.integer("top-k", 0, 1 << 30).value_or(0),
                                  .seed =
                                      static_cast<std::uint64_t>(arguments.integer("seed", 0, INT64_MAX).value_or(1))};
    const std::string prompt = arguments.text("prompt").value_or("\n");
    fmt::print("{}", prompt);
    generate(experiment, executor, tokenizer->encode(prompt), options, [&](std::int32_t token) {
        fmt::print("{}", tokenizer->decode({&token, 1}));
        std::fflush(stdout);
    });
    fmt::print("\n");
    return 0;
}

} // namespace

Command generate_command() {
    return {"generate",
            "sample text from a trained language model",
            {"generate [OPTION…] CHECKPOINT|RUN",
             R"(Continues a prompt with the model of a checkpoint, or of the newest one of a
run's folder. The same seed gives the same text.

Example
  tessera generate runs/quickstart --prompt "In the beginning" --tokens 300
)",
             {{"prompt", "TEXT", "what to continue (default: a new line)"},
              {"tokens", "N", "tokens to generate (default 200)"},
              {"temperature", "T", "0: the most likely token; default 0.8"},
              {"top-k", "K", "draw from the K most likely tokens only; 0, the default: from all"},
              {"seed", "S", "seed of the drawing (default 1)"}},
             1,
             1},
            run_generate};
}

} // namespace tessera
