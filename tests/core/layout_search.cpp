// SPDX-License-Identifier: Apache-2.0
// The search for layouts against trying everything.
#include "core/run/layout_search.hpp"

#include "core/run/prediction.hpp"
#include "tests/core/tiny_images.hpp"
#include "tests/core/tiny_machine.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <optional>
#include <set>

using namespace tessera;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

struct Tried {
    double seconds;
    std::int64_t memory;
};

// All layouts without pipelines that a search looks through, each planned as it is.
std::vector<Tried> try_all(const std::vector<std::string>& base, int ranks) {
    std::vector<Tried> all;
    for (const int tensor : {1, 2, 4})
        for (const int context : {1, 2, 4})
            for (const char* sequence : {"false", "true"})
                for (const char* recompute : {"none", "selective", "full"})
                    for (int zero = 0; zero < 4; ++zero)
                        for (int rows = 1; rows <= 16; rows *= 2) {
                            std::vector<std::string> keys = base;
                            keys.push_back(fmt::format("parallelism.tensor_parallel_degree={}", tensor));
                            keys.push_back(fmt::format("parallelism.context_parallel_degree={}", context));
                            keys.push_back(fmt::format("parallelism.sequence_parallel={}", sequence));
                            keys.push_back(fmt::format("training.recompute={}", recompute));
                            keys.push_back(fmt::format("parallelism.zero_stage={}", zero));
                            keys.push_back(fmt::format("training.local_batch_size={}", rows));
                            try {
                                const Config config = tiny_config(keys);
                                const Experiment experiment =
                                    plan_training(config, {0, ranks, true}, nullptr, CpuStream(1));
                                all.push_back(
                                    {cost_of(experiment.train.plan, experiment.train.layout, machine()).total(),
                                     experiment.memory.total()});
                            } catch (const ConfigError&) {
                            }
                        }
    return all;
}

} // namespace

TEST(LayoutSearch, FindsTheFastestThatFits) {
    const std::vector<std::string> base = {"model.n_layers=5", "parallelism.pipeline_parallel_degree=1",
                                           "data.prefetch=32"};
    const Config config = tiny_config(base);
    const std::vector<Tried> all = try_all(base, 4);
    std::int64_t too_little = 0; // for the fastest, which shows only when it is planned as it is
    for (int round = 0; round < 5; ++round) {
        const std::int64_t memory = round == 0 ? std::int64_t{1} << 30 : round == 1 ? 450'000 : too_little;
        const SearchResult result =
            search_layouts(config, {.ranks = 4, .memory = memory, .most = 3}, machine(), nullptr, CpuStream(1));
        ASSERT_FALSE(result.best.empty()) << memory;
        too_little = result.best[0].memory - 1;
        double fastest = 1e30;
        for (const Tried& one : all)
            if (one.memory <= memory) fastest = std::min(fastest, one.seconds);
        EXPECT_NEAR(result.best[0].cost.total() / fastest, 1, 1e-9) << memory;
        EXPECT_EQ(result.tried, result.fit + result.too_large + result.refused + result.slower);
        EXPECT_GE(result.slower, 0);
        EXPECT_GT(result.refused, 0);
        EXPECT_EQ(result.too_large > 0, memory < 1 << 30);
        for (std::size_t i = 0; i < result.best.size(); ++i) {
            EXPECT_LE(result.best[i].memory, memory);
            EXPECT_LE(result.best[i > 0 ? i - 1 : 0].cost.total(), result.best[i].cost.total());
        }
    }
}

TEST(LayoutSearch, FindsTheFastestPipeline) {
    const std::vector<std::string> base = {"model.n_layers=8", "parallelism.zero_stage=0", "training.recompute=none",
                                           "parallelism.tensor_parallel_degree=1",
                                           "parallelism.context_parallel_degree=1"};
    std::vector<std::pair<Tried, std::string>> all;
    for (const std::string way : {"1 1f1b 1", "2 1f1b 1", "4 1f1b 1", "2 zero_bubble 1", "4 zero_bubble 1",
                                  "2 interleaved 2", "2 interleaved 4", "4 interleaved 2"})
        for (int rows = 1; rows <= 16; rows *= 2) {
            const auto space = way.find(' '), last = way.rfind(' ');
            std::vector<std::string> words = base;
            words.push_back("parallelism.pipeline_parallel_degree=" + way.substr(0, space));
            words.push_back("parallelism.pipeline_schedule=" + way.substr(space + 1, last - space - 1));
            words.push_back("parallelism.pipeline_chunks=" + way.substr(last + 1));
            words.push_back(fmt::format("training.local_batch_size={}", rows));
            try {
                const Prediction found = predict_tiny(words, 0, 4, machine());
                all.push_back({{found.cost.total(), found.memory}, way});
            } catch (const ConfigError&) { // fewer micro-batches than ranks, or not as many as take turns evenly
            }
        }
    const Config config = tiny_config(base);
    const auto least = std::ranges::min(all, {}, [](const auto& one) { return one.first.memory; }).first.memory;
    for (const std::int64_t memory : {std::int64_t{1} << 30, least + least / 8, least}) {
        const SearchResult result =
            search_layouts(config, {.ranks = 4, .memory = memory, .most = 2}, machine(), nullptr, CpuStream(1));
        ASSERT_FALSE(result.best.empty()) << memory;
        double fastest = 1e30;
        std::string way;
        for (const auto& [one, of] : all)
            if (one.memory <= memory && one.seconds < fastest) std::tie(fastest, way) = std::tie(one.seconds, of);
        EXPECT_NEAR(result.best[0].cost.total() / fastest, 1, 1e-9) << way << " in " << memory;
        EXPECT_EQ(result.tried, result.fit + result.too_large + result.refused + result.slower);
        if (memory == least) {
            EXPECT_THAT(result.best[0].mesh, HasSubstr("pipeline"));
        }
    }
}

// All keys together, with pipelines and tensor ranks in one mesh: no bound leaves out the fastest.
TEST(LayoutSearch, FindsTheFastestOfProducts) {
    const std::vector<std::string> base = {"model.n_layers=4", "parallelism.context_parallel_degree=1",
                                           "parallelism.sequence_parallel=false", "model.bias=true"};
    std::vector<Tried> all;
    for (const char* way : {"1f1b", "zero_bubble", "interleaved"})
        for (const int pipeline : {1, 2, 4})
            for (const int tensor : {1, 2})
                for (const int zero : {0, 1, 3})
                    for (const char* recompute : {"none", "selective", "full"})
                        for (int rows = 1; rows <= 8; rows *= 2) {
                            if (pipeline == 1 && way != std::string("1f1b")) continue;
                            std::vector<std::string> words = base;
                            words.push_back(fmt::format("parallelism.pipeline_parallel_degree={}", pipeline));
                            words.push_back(fmt::format("parallelism.pipeline_schedule={}", way));
                            words.push_back(fmt::format("parallelism.tensor_parallel_degree={}", tensor));
                            words.push_back(fmt::format("parallelism.zero_stage={}", zero));
                            words.push_back(fmt::format("training.recompute={}", recompute));
                            words.push_back(fmt::format("training.local_batch_size={}", rows));
                            try {
                                const Prediction found = predict_tiny(words, 0, 4, machine());
                                all.push_back({found.cost.total(), found.memory});
                            } catch (const ConfigError&) {
                            }
                        }
    const Config config = tiny_config(base);
    const std::int64_t least = std::ranges::min(all, {}, &Tried::memory).memory;
    for (const std::int64_t memory : {std::int64_t{1} << 30, 2 * least, least + least / 4}) {
        const SearchResult result =
            search_layouts(config, {.ranks = 4, .memory = memory, .most = 1}, machine(), nullptr, CpuStream(1));
        ASSERT_FALSE(result.best.empty()) << memory;
        double fastest = 1e30;
        for (const Tried& one : all)
            if (one.memory <= memory) fastest = std::min(fastest, one.seconds);
        EXPECT_LE(result.best[0].cost.total(), fastest * (1 + 1e-9)) << memory;
        EXPECT_GT(result.slower, 0);
    }
}

namespace {

// On nodes of two ranks.
Machine pairs() {
    std::string text = machine_text;
    text.replace(text.find("ranks = 4"), 9, "ranks = 2");
    return parse_machine(text, "pairs.toml");
}

std::optional<Tried> planned(const Config& config, int ranks, const Machine& on) try {
    const Stream stream = CpuStream(1);
    const TrainingPlans plans(config, ranks, ranks <= on.ranks_per_node, nullptr, stream);
    if (plans.of(ranks - 1).train.plan.share.size() == 0) return std::nullopt; // fewer ranks do the same
    const Prediction found = predict(plans.of(0), plans, 0, on);
    return Tried{found.cost.total(), found.memory};
} catch (const ConfigError&) {
    return std::nullopt;
}

// Every product of the keys' values.
std::vector<std::vector<std::string>> products_of(const std::map<std::string, std::vector<std::string>>& keys) {
    std::vector<std::vector<std::string>> all{{}};
    for (const auto& [key, values] : keys) {
        std::vector<std::vector<std::string>> longer;
        for (const std::vector<std::string>& words : all)
            for (const std::string& value : values) {
                longer.push_back(words);
                longer.back().push_back(key + "=" + value);
            }
        all = std::move(longer);
    }
    return all;
}

double fastest_within(std::int64_t memory, const std::vector<Tried>& all) {
    double fastest = 1e30;
    for (const Tried& one : all)
        if (one.memory <= memory) fastest = std::min(fastest, one.seconds);
    return fastest;
}

} // namespace

TEST(LayoutSearch, FindsReplicasOfNodes) {
    const std::vector<std::string> base = {"parallelism.pipeline_parallel_degree=1",
                                           "parallelism.context_parallel_degree=1",
                                           "parallelism.tensor_parallel_degree=1"};
    std::vector<Tried> all;
    std::set<std::int64_t> memories; // that replicas need
    for (std::vector<std::string> words : products_of({{"parallelism.data_parallel_replicate_degree", {"1", "2"}},
                                                       {"parallelism.zero_stage", {"0", "1", "2", "3"}},
                                                       {"training.recompute", {"none", "selective", "full"}},
                                                       {"training.local_batch_size", {"1", "2", "4"}}})) {
        words.insert(words.end(), base.begin(), base.end());
        const std::optional<Tried> one = planned(tiny_config(words), 4, pairs());
        if (!one) continue;
        all.push_back(*one);
        if (words[0].ends_with("=2")) memories.insert(one->memory);
    }
    for (const std::int64_t memory : memories) {
        const SearchResult result = search_layouts(tiny_config(base), {.ranks = 4, .memory = memory, .most = 1},
                                                   pairs(), nullptr, CpuStream(1));
        ASSERT_FALSE(result.best.empty()) << memory;
        EXPECT_NEAR(result.best[0].cost.total() / fastest_within(memory, all), 1, 1e-9) << result.best[0].mesh;
        EXPECT_EQ(result.tried, result.fit + result.too_large + result.refused + result.slower);
    }
    const auto finds_replicas = [&](const Machine& on) {
        const SearchOptions options{.ranks = 4, .memory = std::int64_t{1} << 30, .most = 1000};
        const SearchResult result = search_layouts(tiny_config(base), options, on, nullptr, CpuStream(1));
        return std::ranges::any_of(result.best,
                                   [](const FoundLayout& one) { return one.mesh.starts_with("replica 2 x data 2"); });
    };
    EXPECT_TRUE(finds_replicas(pairs()));
    EXPECT_FALSE(finds_replicas(machine())); // one node
}

// A model that does not grow block by block; with fewer samples than ranks.
TEST(LayoutSearch, FindsTheFastestOfImages) {
    const Config config = image_config(tiny_cnn, {"training.global_batch_size=2", "training.local_batch_size=1",
                                                  "parallelism.pipeline_parallel_degree=1"});
    std::vector<Tried> all;
    for (const std::vector<std::string>& words :
         products_of({{"parallelism.spatial_parallel_degree", {"1", "2", "4"}},
                      {"parallelism.spatial_parallel_width_degree", {"1", "2", "4"}},
                      {"parallelism.tensor_parallel_degree", {"1", "2", "4"}},
                      {"parallelism.zero_stage", {"0", "1", "2", "3"}},
                      {"training.recompute", {"none", "selective", "full"}},
                      {"training.global_batch_size", {"2"}},
                      {"training.local_batch_size", {"1"}}}))
        if (const std::optional<Tried> one = planned(image_config(tiny_cnn, words), 4, machine())) all.push_back(*one);
    const std::int64_t least = std::ranges::min(all, {}, &Tried::memory).memory;
    for (const std::int64_t memory : {std::int64_t{1} << 30, least + least / 4, least}) {
        const SearchResult result =
            search_layouts(config, {.ranks = 4, .memory = memory, .most = 1}, machine(), nullptr, CpuStream(1));
        ASSERT_FALSE(result.best.empty()) << memory;
        EXPECT_NEAR(result.best[0].cost.total() / fastest_within(memory, all), 1, 1e-9) << result.best[0].mesh;
        EXPECT_EQ(result.best[0].unit, "sample");
        EXPECT_THAT(result.best[0].mesh, testing::AnyOf(HasSubstr("spatial"), HasSubstr("tensor")));
    }
}

TEST(LayoutSearch, SaysWhyItFindsNothing) {
    const auto search = [](const std::vector<std::string>& words, std::int64_t memory) {
        return search_layouts(tiny_config(words), {.ranks = 4, .memory = memory, .most = 3}, machine(), nullptr,
                              CpuStream(1));
    };
    const SearchResult small = search({"data.prefetch=32"}, 20'000);
    EXPECT_TRUE(small.best.empty());
    EXPECT_GT(small.least_memory, 20'000);
    EXPECT_LT(small.least_memory, 400'000);
    EXPECT_FALSE(small.least.empty());
    const SearchResult heads = search({"parallelism.tensor_parallel_degree=4", "model.n_heads=2"}, 1 << 30);
    EXPECT_TRUE(heads.best.empty());
    EXPECT_EQ(heads.tried, heads.refused);
    EXPECT_THAT(heads.refusal, HasSubstr("2 heads"));
    EXPECT_EQ(search({"training.global_batch_size=7", "training.local_batch_size=2"}, 1 << 30).tried, 0);
}

TEST(LayoutSearch, KeepsWhatTheCommandLineSays) {
    const Config config = tiny_config({"parallelism.tensor_parallel_degree=2", "parallelism.zero_stage=1",
                                       "training.recompute=full", "training.local_batch_size=4"});
    const SearchResult result =
        search_layouts(config, {.ranks = 4, .memory = 1 << 30, .most = 100}, machine(), nullptr, CpuStream(1));
    ASSERT_FALSE(result.best.empty());
    for (const FoundLayout& found : result.best) {
        EXPECT_THAT(found.mesh, HasSubstr("tensor 2"));
        const auto says = [&](std::string_view key) {
            for (const auto& [name, value] : found.choices)
                if (name == key) return toml_text(value);
            return std::string();
        };
        EXPECT_EQ(says(parallelism_zero.name), "1");
        EXPECT_EQ(says(training_recompute.name), "\"full\"");
        EXPECT_EQ(says(training_local_batch.name), "4");
    }
    const Config of_training = tiny_config({"run.step_timeout=3", "checkpoint.interval=7"});
    EXPECT_NO_THROW(search_layouts(of_training, {.ranks = 2, .memory = 1 << 30}, machine(), nullptr, CpuStream(1)));
    const Config unread = tiny_config({"optimizer.momentum=0.5"});
    EXPECT_THAT([&] { search_layouts(unread, {.ranks = 2, .memory = 1 << 30}, machine(), nullptr, CpuStream(1)); },
                ThrowsMessage<ConfigError>(HasSubstr("optimizer.momentum")));
}
