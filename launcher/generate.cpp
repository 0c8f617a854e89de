// SPDX-License-Identifier: Apache-2.0
// `tessera generate`: text from a trained language model.
#include "core/data/options.hpp"
#include "core/data/text_marks.hpp"
#include "core/formats/numpy.hpp"
#include "core/run/generation.hpp"
#include "core/run/weights.hpp"
#include "core/t5_model.hpp"
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

void write_rows(const std::vector<float>& logits, std::int64_t vocabulary, const std::string& path) {
    const std::int64_t rows = static_cast<std::int64_t>(logits.size()) / vocabulary;
    write_numpy(path, {logits.data(), {rows, vocabulary}, DType::f32});
    fmt::print("{}: logits of {}\n", path, counted(rows, "token"));
}

// Prints tokens as they come, as text or, without a tokenizer, as ids.
class Writer {
public:
    Writer(const Tokenizer* tokenizer, std::vector<std::int32_t> before)
        : tokenizer_(tokenizer), tokens_(std::move(before)),
          printed_(tokenizer == nullptr ? 0 : tokenizer->decode(tokens_).size()) {}

    void write(std::int32_t token) {
        if (tokenizer_ != nullptr) { // how a token is written may depend on those before: spaces between words
            tokens_.push_back(token);
            const std::string text = tokenizer_->decode(tokens_);
            fmt::print("{}", std::string_view(text).substr(std::min(printed_, text.size())));
            printed_ = text.size();
        } else {
            fmt::print("{}{}", printed_ == 0 ? "" : ",", token);
            printed_ = 1;
        }
        std::fflush(stdout);
    }

private:
    const Tokenizer* tokenizer_;
    std::vector<std::int32_t> tokens_;
    std::size_t printed_;
};

SamplingOptions sampling_in(const Arguments& arguments) {
    return {.tokens = arguments.integer("tokens", 1, 1 << 30).value_or(200),
            .temperature = number(arguments, "temperature", 0.8),
            .top_k = arguments.integer("top-k", 0, 1 << 30).value_or(0),
            .seed = static_cast<std::uint64_t>(arguments.integer("seed", 0, INT64_MAX).value_or(1))};
}

WeightsOf weights_in(const Arguments& arguments) {
    return arguments.has("ema") ? WeightsOf::average : WeightsOf::last_step;
}

// A checkpoint's model, planned and with its weights.
struct Generator {
    Generator(const Checkpoint& checkpoint, WeightsOf which, const Config& config, std::int64_t vocabulary,
              const AnswerSizes& answer)
        : stream(make_stream(config, nullptr)), experiment(plan_generation(config, vocabulary, stream, answer)),
          groups(experiment.generate.layout.mesh),
          memory(experiment.memory, experiment.generate.layout, groups, stream),
          executor(experiment.generate.layout, experiment.generate.plan, memory, groups, stream) {
        restore_tensors(checkpoint, experiment.generate, memory_of(executor), stream, which);
    }

    Stream stream;
    Experiment experiment;
    Groups groups;
    Memory memory;
    Executor executor;
};

// The prompt is a source, which is not printed again: what is written answers it.
int write_answer(const Arguments& arguments, const Checkpoint& checkpoint, const Config& config,
                 const Tokenizer* tokenizer) {
    const std::int64_t vocabulary =
        parse_integer("data.vocabulary", metadata_of(checkpoint, "data.vocabulary"), 1, INT32_MAX);
    auto end = static_cast<std::int32_t>(config.get(model_end_token));
    std::vector<std::int32_t> source;
    if (const std::optional<std::string> ids = arguments.text("ids")) {
        source = ids_in(*ids);
    } else {
        if (end < 0) end = pair_marks(*tokenizer).end;
        const std::optional<std::string> text = arguments.text("prompt");
        if (!text) throw ConfigError("generate: say the source that is to be answered, by --prompt or --ids");
        source = tokenizer->encode(*text);
        source.push_back(end);
    }
    const std::optional<std::string> path = arguments.text("logits"), targets = arguments.text("target-ids");
    if (path.has_value() != targets.has_value())
        throw ConfigError("generate: the logits of a target are those of --target-ids: say both");
    const SamplingOptions options = sampling_in(arguments);
    const std::vector<std::int32_t> target = targets ? ids_in(*targets) : std::vector<std::int32_t>();
    Generator generator(checkpoint, weights_in(arguments), config, vocabulary,
                        {static_cast<std::int64_t>(source.size()),
                         targets ? static_cast<std::int64_t>(target.size()) : options.tokens});
    if (path) {
        write_rows(logits_of_answer(generator.experiment, generator.executor, source, target), vocabulary, *path);
        return 0;
    }
    Writer writer(arguments.has("ids") ? nullptr : tokenizer, {});
    answer(generator.experiment, generator.executor, source, options, end,
           [&](std::int32_t token) { writer.write(token); });
    fmt::print("\n");
    return 0;
}

int continue_text(const Arguments& arguments, const Checkpoint& checkpoint, const Config& config,
                  const Tokenizer* tokenizer) {
    const std::string said = metadata_of(checkpoint, "data.vocabulary"); // may be more than the tokenizer's
    const std::int64_t vocabulary = tokenizer != nullptr && said.empty()
                                        ? tokenizer->vocabulary_size()
                                        : parse_integer("data.vocabulary", said, 1, INT32_MAX);
    if (arguments.has("target-ids")) throw ConfigError("generate: --target-ids is of a model.type \"t5\" alone");
    Generator generator(checkpoint, weights_in(arguments), config, vocabulary, {});
    const SamplingOptions options = sampling_in(arguments);
    const std::optional<std::string> ids = arguments.text("ids");
    const std::string text = arguments.text("prompt").value_or("\n");
    const std::vector<std::int32_t> prompt = ids ? ids_in(*ids) : tokenizer->encode(text);
    if (const std::optional<std::string> path = arguments.text("logits")) {
        write_rows(logits_of(generator.experiment, generator.executor, prompt), vocabulary, *path);
        return 0;
    }
    if (!ids) fmt::print("{}", text);
    Writer writer(ids ? nullptr : tokenizer, prompt);
    generate(generator.experiment, generator.executor, prompt, options,
             [&](std::int32_t token) { writer.write(token); });
    fmt::print("\n");
    return 0;
}

int run_generate(const Arguments& arguments, Process&) {
    const Checkpoint checkpoint = open_checkpoint(arguments.words()[0]);
    const Config config = config_of(checkpoint, {});
    const std::string type = config.get(model_type);
    const bool writes = (type == "gpt" || type == "t5" || type == "layers") && reads_text(config);
    const bool tells_logits = type == "bert" && reader_of(config) != "labelled" && arguments.has("logits");
    if (!writes && !tells_logits) config.refuse(model_type.name, "writes no text, as a language model does");
    if (arguments.has("ids") && arguments.has("prompt"))
        throw ConfigError("generate: --prompt or --ids, one at a time");
    const std::unique_ptr<Tokenizer> tokenizer = tokenizer_of(checkpoint, !arguments.has("ids"));
    return type == "t5" ? write_answer(arguments, checkpoint, config, tokenizer.get())
                        : continue_text(arguments, checkpoint, config, tokenizer.get());
}

} // namespace

Command generate_command() {
    return {"generate",
            "sample text from a trained language model",
            {"generate [OPTION…] CHECKPOINT|RUN",
             R"(Continues a prompt with the model of a checkpoint, or of the newest one of a
run's folder; an encoder-decoder (model.type = "t5") answers it. The same seed
gives the same text.

Examples
  tessera generate runs/quickstart --prompt "In the beginning" --tokens 300
  tessera generate runs/translation --prompt "Guten Morgen" --temperature 0
)",
             {{"prompt", "TEXT", "what to continue (default: a new line)"},
              {"ids", "I,J,…", "the same as token ids; what follows is printed as ids"},
              {"logits", "FILE", "write the prompt's logits, (tokens, vocabulary), as .npy"},
              {"target-ids", "I,J,…", "with --logits: those of this target instead, of which t5 is given all"},
              {"tokens", "N", "tokens to generate (default 200)"},
              {"temperature", "T", "0: the most likely token; default 0.8"},
              {"top-k", "K", "draw from the K most likely tokens only; 0, the default: from all"},
              {"seed", "S", "seed of the drawing (default 1)"},
              {"ema", "", "with the weights' moving average (training.ema_decay)"}},
             1,
             1},
            run_generate};
}

} // namespace tessera
