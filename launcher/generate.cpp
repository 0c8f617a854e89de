// SPDX-License-Identifier: Apache-2.0
// `tessera generate`: text from a trained language model.
#include "core/data/options.hpp"
#include "core/formats/numpy.hpp"
#include "core/run/generation.hpp"
#include "core/run/weights.hpp"
#include "kernels/error.hpp"
#include "launcher/setup.hpp"

#include <algorithm>
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

// What a person or a program wrote as "15496,11,995".
std::vector<std::int32_t> ids_in(const std::string& text) {
    std::vector<std::int32_t> ids;
    for (std::size_t from = 0; from <= text.size();) {
        const std::size_t comma = std::min(text.find(',', from), text.size());
        ids.push_back(static_cast<std::int32_t>(parse_integer("--ids", text.substr(from, comma - from), 0, INT32_MAX)));
        from = comma + 1;
    }
    return ids;
}

std::unique_ptr<Tokenizer> tokenizer_of(const Checkpoint& checkpoint, bool wanted) {
    const std::string saved = metadata_of(checkpoint, "tokenizer");
    if (!saved.empty()) return Tokenizer::load(saved);
    if (wanted)
        throw ConfigError(
            fmt::format("checkpoint {} holds no tokenizer, its data were token ids: say --ids", checkpoint.folder()));
    return nullptr;
}

void write_logits(const Experiment& experiment, Executor& executor, const std::vector<std::int32_t>& prompt,
                  const std::string& path) {
    const std::vector<float> logits = logits_of(experiment, executor, prompt);
    const auto rows = static_cast<std::int64_t>(prompt.size());
    write_numpy(path, {logits.data(), {rows, experiment.sizes.sample.classes}, DType::f32});
    fmt::print("{}: logits behind each of {}\n", path, counted(rows, "token"));
}

// Prints what follows the prompt, as text or, where that was given as ids, as ids.
void write_text(const Experiment& experiment, Executor& executor, const std::vector<std::int32_t>& prompt,
                const SamplingOptions& options, const Tokenizer* tokenizer) {
    std::vector<std::int32_t> tokens = prompt;
    std::size_t printed = tokenizer == nullptr ? 0 : tokenizer->decode(tokens).size();
    generate(experiment, executor, prompt, options, [&](std::int32_t token) {
        if (tokenizer != nullptr) { // how a token is written may depend on those before: spaces between words
            tokens.push_back(token);
            const std::string text = tokenizer->decode(tokens);
            fmt::print("{}", std::string_view(text).substr(std::min(printed, text.size())));
            printed = text.size();
        } else {
            fmt::print("{}{}", printed == 0 ? "" : ",", token);
            printed = 1;
        }
        std::fflush(stdout);
    });
    fmt::print("\n");
}

int run_generate(const Arguments& arguments, Process&) {
    const Checkpoint checkpoint = open_checkpoint(arguments.words()[0]);
    const Config config = config_of(checkpoint, {});
    const std::string type = config.get(model_type);
    const bool writes = (type == "gpt" || type == "layers") && reads_text(config);
    if (!writes && !(type == "bert" && arguments.has("logits")))
        config.refuse(model_type.name, "writes no text, as a language model does");
    const std::optional<std::string> ids = arguments.text("ids");
    if (ids && arguments.has("prompt")) throw ConfigError("generate: --prompt or --ids, one at a time");
    const std::unique_ptr<Tokenizer> tokenizer = tokenizer_of(checkpoint, !ids);
    Stream stream = make_stream(config, nullptr);
    const std::int64_t vocabulary =
        tokenizer ? tokenizer->vocabulary_size()
                  : parse_integer("data.vocabulary", metadata_of(checkpoint, "data.vocabulary"), 1, INT32_MAX);
    const Experiment experiment = plan_generation(config, vocabulary, stream);
    const Program& program = experiment.generate;
    Groups groups(program.layout.mesh);
    const Memory memory(experiment.memory, program.layout, groups, stream);
    Executor executor(program.layout, program.plan, memory, groups, stream);
    restore_tensors(checkpoint, program, memory_of(executor), stream);

    const SamplingOptions options{.tokens = arguments.integer("tokens", 1, 1 << 30).value_or(200),
                                  .temperature = number(arguments, "temperature", 0.8),
                                  .top_k = arguments.integer("top-k", 0, 1 << 30).value_or(0),
                                  .seed =
                                      static_cast<std::uint64_t>(arguments.integer("seed", 0, INT64_MAX).value_or(1))};
    const std::string text = arguments.text("prompt").value_or("\n");
    const std::vector<std::int32_t> prompt = ids ? ids_in(*ids) : tokenizer->encode(text);
    if (const std::optional<std::string> path = arguments.text("logits")) {
        write_logits(experiment, executor, prompt, *path);
        return 0;
    }
    if (!ids) fmt::print("{}", text);
    write_text(experiment, executor, prompt, options, ids ? nullptr : tokenizer.get());
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
              {"ids", "I,J,…", "the same as token ids; what follows is printed as ids"},
              {"logits", "FILE", "write the prompt's logits, (tokens, vocabulary), as .npy"},
              {"tokens", "N", "tokens to generate (default 200)"},
              {"temperature", "T", "0: the most likely token; default 0.8"},
              {"top-k", "K", "draw from the K most likely tokens only; 0, the default: from all"},
              {"seed", "S", "seed of the drawing (default 1)"}},
             1,
             1},
            run_generate};
}

} // namespace tessera
