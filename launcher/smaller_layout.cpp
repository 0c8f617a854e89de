// SPDX-License-Identifier: Apache-2.0
// `tessera plan`, asked again and again: what it accepts is what runs.
#include "launcher/smaller_layout.hpp"

#include "core/config_catalog.hpp"
#include "core/run/batch.hpp"
#include "core/run/experiment.hpp"
#include "core/run/parallelism.hpp"
#include "launcher/diagnosis/surroundings.hpp"
#include "launcher/job/remote.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <sstream>

namespace tessera {
namespace {

constexpr std::chrono::seconds plan_within{120};

using Clock = std::chrono::steady_clock;
using Words = std::vector<std::string>;

// What a search varies, but for what is recomputed.
constexpr std::array varied{parallelism_data.name,     parallelism_replicate.name,     parallelism_pipeline.name,
                            parallelism_schedule.name, parallelism_chunks.name,        parallelism_context.name,
                            parallelism_sample.name,   parallelism_expert.name,        parallelism_tensor.name,
                            parallelism_spatial.name,  parallelism_spatial_width.name, parallelism_sequence.name,
                            parallelism_zero.name,     training_local_batch.name,      training_accumulation.name};

bool is_varied(std::string_view key) { return std::ranges::find(varied, key) != varied.end(); }

std::string key_in(const std::string& word) { return word.substr(0, word.find('=')); }

std::string value_of(const Config& config, std::string_view key) {
    for (const ConfigEntry& entry : config.entries())
        if (entry.name == key) return entry.value;
    return {};
}

int degree_of(const Mesh& mesh, std::string_view name) {
    for (int axis = 0; axis < mesh.axis_count(); ++axis)
        if (mesh.axis(axis).name == name) return mesh.axis(axis).size;
    return 1;
}

// What the config leaves to the number of ranks and bits depend on, as words that say what it is on so many.
Words settled_on(const Config& config, int ranks) {
    Words words;
    const auto settle = [&](const Key<std::int64_t>& key, std::int64_t value) {
        if (config.get(key) != value) words.push_back(fmt::format("{}={}", key.name, value));
    };
    if (config.get(training_global_batch) == 0 || config.get(training_local_batch) == 0) {
        const Mesh mesh = make_mesh(config, ranks);
        const Batch batch = solve_batch(config, degree_of(mesh, "data") * degree_of(mesh, "replica"));
        settle(training_global_batch, batch.global);
        settle(training_local_batch, batch.micro_batch);
    }
    settle(training_accumulation, 0);
    const std::pair<std::string_view, const Key<std::int64_t>*> products[] = {
        {"sample", &parallelism_sample},
        {"expert", &parallelism_expert},
        {"context", &parallelism_context},
        {"spatial", &parallelism_spatial},
        {"spatial_width", &parallelism_spatial_width},
        {"tensor", &parallelism_tensor},
    };
    for (const auto& [name, key] : products)
        if (config.get(*key) == -1) settle(*key, degree_of(make_mesh(config, ranks), name));
    return words;
}

// The output of a plan; nothing when it refuses.
std::optional<std::string> plan_of(const LayoutQuestion& question, const Words& options, const Words& words,
                                   std::string& refusal) {
    const auto left = std::chrono::ceil<std::chrono::seconds>(question.until - Clock::now());
    if (left.count() <= 0 || (question.stop && question.stop())) return std::nullopt;
    Words command{this_program(), "plan", "-n", std::to_string(question.ranks)};
    command.insert(command.end(), options.begin(), options.end());
    command.insert(command.end(), words.begin(), words.end());
    const Answer answer = ask_hosts({"localhost"}, "", command, std::min(plan_within, left), question.stop)[0];
    if (answer.came) return answer.text;
    refusal = answer.text.substr(0, answer.text.find('\n'));
    return std::nullopt;
}

Words joined(Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

// What a search finds where these keys stay as the config has them; those in which it differs from the config.
std::optional<Words> find_layout(const Config& config, const Words& words, const LayoutQuestion& question,
                                 const std::vector<std::string_view>& kept, std::string& refusal) {
    Words asked{words[0]};
    for (std::size_t i = 1; i < words.size(); ++i) // a search leaves alone what stands on its command line
        if (!is_varied(key_in(words[i]))) asked.push_back(words[i]);
    for (const std::string_view key : kept)
        asked.push_back(fmt::format("{}={}", key, value_of(config, key)));
    const bool settles = config.get(training_recompute) == "auto"; // by the memory that is there: not varied here
    asked.push_back(
        fmt::format("{}={}", training_recompute.name, settles ? "none" : value_of(config, training_recompute.name)));
    const std::optional<std::string> found = plan_of(question, {"--search", "--keys"}, asked, refusal);
    if (!found) return std::nullopt;
    Words differ;
    std::istringstream lines(*found);
    for (std::string line; std::getline(lines, line);) { // among them what the plan warns of
        const std::string key = key_in(line);
        if (is_varied(key) && line != fmt::format("{}={}", key, value_of(config, key))) differ.push_back(line);
    }
    return plan_of(question, {}, joined(words, differ), refusal) ? std::optional(differ) : std::nullopt;
}

// Of a config that leaves nothing to the number of ranks: CONFIG, then keys.
std::optional<Words> more_to_fit(const Config& config, const Words& words, const LayoutQuestion& question,
                                 std::string& refusal) {
    const std::vector<std::string_view> products{
        training_local_batch.name, parallelism_context.name,       parallelism_sample.name, parallelism_expert.name,
        parallelism_spatial.name,  parallelism_spatial_width.name, parallelism_tensor.name, parallelism_sequence.name};
    if (question.freedom == Freedom::any) {
        if (const auto found = find_layout(config, words, question, {training_local_batch.name}, refusal)) return found;
        return find_layout(config, words, question, {}, refusal);
    }
    if (question.freedom == Freedom::same_bits) {
        std::vector<std::string_view> kept = products;
        kept.push_back(parallelism_zero.name); // a rank's memory stays what it is, as far as it can
        if (const auto found = find_layout(config, words, question, kept, refusal)) return found;
        return find_layout(config, words, question, products, refusal);
    }
    for (const Words& more : {Words{}, Words{fmt::format("{}=-1", parallelism_data.name)}})
        if (plan_of(question, {}, joined(words, more), refusal)) return more;
    return std::nullopt;
}

} // namespace

std::optional<Words> words_to_fit(const Config& config, const Words& words, const LayoutQuestion& question,
                                  std::string& refusal) {
    Words settled;
    try {
        settled = settled_on(config, static_cast<int>(question.wanted));
    } catch (const ConfigError& error) {
        refusal = fmt::format("on the {} ranks that were wanted: {}", question.wanted, error.what());
        return std::nullopt;
    }
    const Words all = joined(words, settled);
    const Config whole = Config::load(all[0], {all.begin() + 1, all.end()}, known_keys());
    const std::optional<Words> more = more_to_fit(whole, all, question, refusal);
    return more ? std::optional(joined(settled, *more)) : std::nullopt;
}

} // namespace tessera
