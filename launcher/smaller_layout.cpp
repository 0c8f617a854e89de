// SPDX-License-Identifier: Apache-2.0
// `tessera plan`, asked again and again: what it accepts is what runs.
#include "launcher/smaller_layout.hpp"

#include "core/config_catalog.hpp"
#include "core/run/experiment.hpp"
#include "launcher/diagnosis/surroundings.hpp"
#include "launcher/job/remote.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <sstream>

namespace tessera {
namespace {

constexpr std::chrono::seconds plan_within{120};

using Words = std::vector<std::string>;

std::string key_in(const std::string& word) { return word.substr(0, word.find('=')); }

std::string value_of(const Config& config, std::string_view key) {
    for (const ConfigEntry& entry : config.entries())
        if (entry.name == key) return entry.value;
    return {};
}

// The output of a plan; nothing when it refuses.
std::optional<std::string> plan_of(std::int64_t ranks, const Words& options, const Words& words, std::string& refusal) {
    Words command{this_program(), "plan", "-n", std::to_string(ranks)};
    command.insert(command.end(), options.begin(), options.end());
    command.insert(command.end(), words.begin(), words.end());
    const Answer answer = ask_hosts({"localhost"}, "", command, plan_within)[0];
    if (answer.came) return answer.text;
    refusal = answer.text.substr(0, answer.text.find('\n'));
    return std::nullopt;
}

Words joined(Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

// What a search finds where these keys stay as the config has them; those in which it differs from the config.
std::optional<Words> find_layout(const Config& config, const Words& words, std::int64_t ranks,
                                 const std::vector<std::string_view>& kept, std::string& refusal) {
    constexpr std::array varied{parallelism_data.name,          parallelism_replicate.name, parallelism_pipeline.name,
                                parallelism_schedule.name,      parallelism_chunks.name,    parallelism_context.name,
                                parallelism_expert.name,        parallelism_tensor.name,    parallelism_spatial.name,
                                parallelism_spatial_width.name, parallelism_sequence.name,  parallelism_zero.name,
                                training_local_batch.name,      training_accumulation.name};
    Words asked{words[0]};
    for (std::size_t i = 1; i < words.size(); ++i) // a search leaves alone what stands on its command line
        if (std::ranges::find(varied, key_in(words[i])) == varied.end()) asked.push_back(words[i]);
    for (const std::string_view key : kept)
        asked.push_back(fmt::format("{}={}", key, value_of(config, key)));
    const bool settles = config.get(training_recompute) == "auto"; // by the memory that is there: not varied here
    asked.push_back(
        fmt::format("{}={}", training_recompute.name, settles ? "none" : value_of(config, training_recompute.name)));
    const std::optional<std::string> found = plan_of(ranks, {"--search", "--keys"}, asked, refusal);
    if (!found) return std::nullopt;
    Words differ;
    std::istringstream lines(*found);
    for (std::string line; std::getline(lines, line);) {
        const std::string key = key_in(line);
        if (key == training_recompute.name || line == fmt::format("{}={}", key, value_of(config, key))) continue;
        differ.push_back(line);
    }
    return plan_of(ranks, {}, joined(words, differ), refusal) ? std::optional(differ) : std::nullopt;
}

} // namespace

std::optional<Words> words_to_fit(const Config& config, const Words& words, std::int64_t ranks, Freedom freedom,
                                  std::string& refusal) {
    const std::vector<std::string_view> products{
        training_local_batch.name,      parallelism_context.name, parallelism_expert.name,  parallelism_spatial.name,
        parallelism_spatial_width.name, parallelism_tensor.name,  parallelism_sequence.name};
    if (freedom == Freedom::any) {
        if (const auto found = find_layout(config, words, ranks, {training_local_batch.name}, refusal)) return found;
        return find_layout(config, words, ranks, {}, refusal);
    }
    if (freedom == Freedom::same_bits) {
        std::vector<std::string_view> kept = products;
        kept.push_back(parallelism_zero.name); // a rank's memory stays what it is, as far as it can
        if (const auto found = find_layout(config, words, ranks, kept, refusal)) return found;
        return find_layout(config, words, ranks, products, refusal);
    }
    for (const Words& more : {Words{}, Words{fmt::format("{}=-1", parallelism_data.name)}})
        if (plan_of(ranks, {}, joined(words, more), refusal)) return more;
    return std::nullopt;
}

} // namespace tessera
