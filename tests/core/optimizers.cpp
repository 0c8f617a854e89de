// SPDX-License-Identifier: Apache-2.0
// What optimizers hold, which parameters they update together, updates of parts, and each on several ranks (their
// rules: optimizer_rules.cpp).
#include "core/optimizers/matrices.hpp"
#include "tests/core/planned_run.hpp"
#include "tests/core/sharded_run.hpp"
#include "tests/core/trained_quadratic.hpp"
#include "tests/core/training_on_mesh.hpp"

#include <cmath>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace tessera;
using testing::HasSubstr;
using testing::ThrowsMessage;

// Nothing but the decay moves a weight whose gradient is zero.
TEST(Optimizers, DecayOnlyWhatDecays) {
    for (const char* name : {"adagrad", "adam", "adamw", "lion", "rmsprop", "sgd"}) {
        const Trained trained({.name = name, .decay = 0.5});
        PlannedRun run(trained.graph);
        run.set(trained.w, std::vector<float>(15, 1.0f));
        run.set(trained.b, std::vector<float>(5, 1.0f));
        run.step({.seed = 1, .step = 0, .first_sample = 0, .learning_rate = 0.1});
        EXPECT_EQ(run.get(trained.b), std::vector<float>(5, 1.0f)) << name;
        for (const float weight : run.get(trained.w))
            EXPECT_LT(weight, 0.96f) << name;
    }
}

TEST(Optimizers, SeeMatricesOfOutputsByInputs) {
    const auto sizes = [](const Shape& shape, const std::string& role) {
        Graph graph;
        const Matrices found = matrices_of(graph.value(graph.parameter("w", shape, {role, -1, {}, true})));
        return std::vector<std::int64_t>{found.count, found.rows, found.columns};
    };
    using Sizes = std::vector<std::int64_t>;
    EXPECT_EQ(sizes({6, 8}, "whole"), (Sizes{1, 6, 8}));
    EXPECT_EQ(sizes({8, 3, 3, 4}, "whole"), (Sizes{1, 8, 36})); // filters
    EXPECT_EQ(sizes({2, 4, 16, 8}, "recurrent"), (Sizes{2, 64, 8}));
    EXPECT_EQ(sizes({3, 2, 4, 8}, "head"), (Sizes{1, 24, 8}));
    EXPECT_EQ(sizes({8, 2, 4}, "head_output"), (Sizes{1, 8, 8}));
}

TEST(Optimizers, HoldTheStatesTheyNeed) {
    const auto states = [](const Settings& settings) {
        const Trained trained(settings);
        return trained.graph.of_kind(ValueKind::optimizer_state).size();
    };
    EXPECT_EQ(states({.name = "adam"}), 4);
    EXPECT_EQ(states({.name = "adamw"}), 4);
    EXPECT_EQ(states({.name = "sgd"}), 0);
    EXPECT_EQ(states({.name = "sgd", .momentum = 0.9}), 2);
    EXPECT_EQ(states({.name = "adagrad"}), 2);
    EXPECT_EQ(states({.name = "rmsprop"}), 2);
    EXPECT_EQ(states({.name = "rmsprop", .momentum = 0.9}), 4);
    EXPECT_EQ(states({.name = "lion"}), 2);
    EXPECT_EQ(states({.name = "lamb"}), 4);
    EXPECT_EQ(states({.name = "lars"}), 2);
    EXPECT_EQ(states({.name = "muon"}), 3); // the vector has AdamW's
    EXPECT_EQ(states({.name = "adafactor"}), 4);
    const Trained factored({.name = "adafactor"});
    EXPECT_EQ(factored.graph.value(factored.graph.named("optimizer.row_squares/w")).type.shape.count(), 3);
    EXPECT_EQ(factored.graph.value(factored.graph.named("optimizer.column_squares/w")).type.shape.count(), 5);
    const Trained trained({.name = "adamw"});
    EXPECT_NO_THROW(trained.graph.named("optimizer.first_moment/w"));
    EXPECT_NO_THROW(trained.graph.named("optimizer.second_moment/b"));
}

TEST(Optimizers, UpdateParametersWithTheSameSettingsInOneNode) {
    const auto updates = [](const Settings& settings) {
        const Trained trained(settings);
        std::vector<std::pair<std::string, std::size_t>> found;
        for (const Node& node : trained.graph.nodes())
            if (!node.op->writes().empty()) found.emplace_back(node.name, node.inputs.size());
        return found;
    };
    using Nodes = std::vector<std::pair<std::string, std::size_t>>;
    EXPECT_EQ(updates({.name = "adamw", .decay = 0.1}), (Nodes{{"update.decaying", 6}, {"update", 6}}));
    EXPECT_EQ(updates({.name = "adam"}), (Nodes{{"update", 10}}));
    EXPECT_EQ(updates({.name = "sgd", .decay = 0.1}), (Nodes{{"update.decaying", 4}, {"update", 4}}));
    EXPECT_EQ(updates({.name = "sgd", .momentum = 0.9}), (Nodes{{"update", 8}}));
}

namespace {

struct UpdateCase {
    const Node& node;
    Samples inputs;
    static constexpr std::size_t in_front = 2; // the pace and the factor
    std::size_t tensors;                       // gradients, weights and each kind of state

    UpdateCase(const Graph& graph, const Node& update)
        : node(update), tensors(static_cast<std::size_t>(update.op->writes()[0]) - in_front) {
        std::mt19937 generator(3);
        for (const ValueId input : node.inputs) {
            inputs.emplace_back(graph.value(input).type.shape, DType::f32);
            fill_randomly(inputs.back(), generator, 0.5);
            for (std::int64_t i = 0; i < inputs.back().count(); ++i) // a second moment is positive
                inputs.back().set(i, std::abs(inputs.back()[i]));
        }
    }
    std::vector<TensorType> types() const { return types_of(views_of(inputs)); }

    // Each tensor on every rank or cut along one of its dims, in all combinations.
    std::vector<PlacementRule> rules() const {
        std::vector<PlacementRule> found{{std::vector<Placement>(inputs.size()), {}}};
        for (std::size_t tensor = 0; tensor < tensors; ++tensor) {
            const std::vector<PlacementRule> before = found;
            for (int dim = 0; dim < inputs[in_front + tensor].view().shape.rank(); ++dim)
                for (PlacementRule rule : before) {
                    for (std::size_t i = in_front + tensor; i < inputs.size(); i += tensors)
                        rule.inputs[i] = Placement::shard(dim);
                    found.push_back(rule);
                }
        }
        return found;
    }
};

} // namespace

TEST(Optimizers, UpdatesShardedAreUpdatesWhole) {
    for (const Settings& settings :
         std::vector<Settings>{{.name = "adam", .decay = 0.3},
                               {.name = "adam"},
                               {.name = "adamw", .decay = 0.3},
                               {.name = "sgd"},
                               {.name = "sgd", .decay = 0.3, .momentum = 0.9, .nesterov = true},
                               {.name = "adagrad", .decay = 0.3},
                               {.name = "rmsprop", .decay = 0.3, .momentum = 0.9},
                               {.name = "lion", .decay = 0.3}}) {
        const Trained trained(settings);
        for (const Node& node : trained.graph.nodes()) {
            if (node.op->writes().empty()) continue;
            const UpdateCase test(trained.graph, node);
            const std::vector<PlacementRule> rules = test.rules();
            EXPECT_EQ(rules.size(), test.tensors == 2 ? 6 : 1 + test.inputs[UpdateCase::in_front].view().shape.rank());
            for (const PlacementRule& rule : rules) {
                EXPECT_EQ(node.op->placed(test.types(), rule.inputs), rule.outputs);
                for (const int ranks : {2, 3})
                    expect_sharded_is_whole(*node.op, test.inputs, {}, rule, ranks);
            }
        }
    }
}

namespace {

// All ways to have each input on every rank or cut along one of its dims.
std::vector<std::vector<Placement>> all_placements(const std::vector<TensorType>& types) {
    std::vector<std::vector<Placement>> found{{}};
    for (const TensorType& type : types) {
        std::vector<std::vector<Placement>> longer;
        for (const std::vector<Placement>& before : found)
            for (int dim = -1; dim < type.shape.rank(); ++dim) {
                longer.push_back(before);
                longer.back().push_back(dim < 0 ? Placement::replicate() : Placement::shard(dim));
            }
        found = std::move(longer);
    }
    return found;
}

} // namespace

// Of those whose steps follow whole tensors: whatever a node says that it takes, it computes the same from.
TEST(Optimizers, UpdatesByWholeTensorsTakeParts) {
    for (const char* name : {"adafactor", "lamb", "lars", "muon"}) {
        const Trained trained({.name = name, .decay = 0.3, .momentum = 0.9});
        for (const Node& node : trained.graph.nodes()) {
            if (node.op->writes().empty()) continue;
            const UpdateCase test(trained.graph, node);
            std::vector<TensorType> outputs;
            for (const ValueId id : node.outputs)
                outputs.push_back(trained.graph.value(id).type);
            int cut = 0;
            for (const std::vector<Placement>& inputs : all_placements(test.types())) {
                const std::optional<std::vector<Placement>> placed = node.op->placed(test.types(), inputs);
                if (!placed) continue;
                for (const int ranks : {2, 3})
                    expect_sharded_is_whole(*node.op, test.inputs, outputs, {inputs, *placed}, ranks);
                cut += std::ranges::count(inputs, Placement::replicate()) < std::ssize(inputs) ? 1 : 0;
            }
            const bool of_matrix =
                test.inputs[static_cast<std::size_t>(node.op->writes()[0])].view().shape.count() == 15;
            EXPECT_GE(cut, of_matrix ? 2 : 1) << name << ": " << node.name;
        }
    }
}

TEST(Optimizers, UpdatesOnPartsThatDoNotMatchAreRefused) {
    const Trained trained({.name = "adam"});
    const Node& node = trained.graph.nodes().back();
    const UpdateCase test(trained.graph, node);
    for (const PlacementRule& rule : test.rules())
        for (std::size_t i = 0; i < rule.inputs.size(); ++i)
            for (const Placement other : {Placement::shard(2), Placement::partial(), Placement::at(0)}) {
                PlacementRule wrong = rule;
                wrong.inputs[i] = other;
                EXPECT_EQ(node.op->placed(test.types(), wrong.inputs), std::nullopt);
                for (std::size_t like = i; i >= UpdateCase::in_front && like < rule.inputs.size(); like += test.tensors)
                    wrong.inputs[like] = other;
                // All tensors of one parameter may be on one stage of a pipeline.
                const bool of_first_list = i >= UpdateCase::in_front && i < UpdateCase::in_front + test.tensors;
                const bool all = of_first_list && other == Placement::at(0);
                EXPECT_EQ(node.op->placed(test.types(), wrong.inputs).has_value(), all);
            }
}

TEST(ParameterGroups, FitByPatternsOfNames) {
    EXPECT_TRUE(fits("*", "layers.0.norm.scale"));
    EXPECT_TRUE(fits("layers.*.bias", "layers.11.mlp.bias"));
    EXPECT_TRUE(fits("*norm*", "norm.scale"));
    EXPECT_TRUE(fits("head.weight", "head.weight"));
    EXPECT_FALSE(fits("head", "head.weight"));
    EXPECT_FALSE(fits("*.bias", "head.biases"));
    EXPECT_FALSE(fits("", "head"));
}

TEST(ParameterGroups, AreUpdatedByNodesOfTheirOwn) {
    const auto updates = [](const std::string& groups) {
        const Config config =
            Config::parse("[optimizer]\nname = 'adamw'\nweight_decay = 0.1\n" + groups, "test.toml", {}, known_keys());
        Graph graph;
        const ValueId w = graph.parameter("w", {3, 5}, {"weight", -1, {}, true});
        const ValueId b = graph.parameter("b", {5}, {"bias", -1, {}, false});
        const ValueId loss = graph.apply(std::make_shared<Quadratic>(), "quadratic", {w, b})[2];
        const std::vector<ParameterSettings> settings = apply_parameter_groups(graph, config);
        append_optimizer(graph, differentiate(graph, loss), *make_optimizer(config), {.settings = settings});
        std::vector<std::pair<std::string, std::size_t>> found;
        for (const Node& node : graph.nodes())
            if (!node.op->writes().empty()) found.emplace_back(node.name, node.inputs.size());
        EXPECT_EQ(graph.of_kind(ValueKind::optimizer_state).size(), groups.find("freeze") == std::string::npos ? 4 : 2);
        return found;
    };
    using Nodes = std::vector<std::pair<std::string, std::size_t>>;
    EXPECT_EQ(updates("[[optimizer.groups]]\nparameters = ['b']\nlr_factor = 0.5"),
              (Nodes{{"update.decaying", 6}, {"update.group_1", 6}}));
    EXPECT_EQ(updates("[[optimizer.groups]]\nparameters = ['*']\nweight_decay = 0.2"),
              (Nodes{{"update.group_1.decaying", 10}}));
    EXPECT_EQ(updates("[[optimizer.groups]]\nparameters = ['w']\nfreeze = true"), (Nodes{{"update", 6}}));
    EXPECT_THAT([&] { updates("[[optimizer.groups]]\nparameters = ['*']\nfreeze = true"); },
                ThrowsMessage<ConfigError>(HasSubstr("the groups freeze every parameter")));
    EXPECT_THAT([&] { updates("[[optimizer.groups]]\nparameters = ['v*']"); },
                ThrowsMessage<ConfigError>(HasSubstr("fits none of the 2 parameters")));
}

TEST(Optimizers, RefuseWhatTheyCannotUse) {
    const auto expect_refused = [](const Settings& settings, const std::string& sentence) {
        EXPECT_THAT([&] { make_optimizer(config_of(settings)); }, ThrowsMessage<ConfigError>(HasSubstr(sentence)));
    };
    expect_refused({.name = "adamv"}, "no optimizer named 'adamv'; did you mean 'adam");
    expect_refused({.name = "adam", .beta1 = 1}, "optimizer.beta1 = 1");
    expect_refused({.name = "adamw", .beta2 = -0.1}, "optimizer.beta2 = -0.1");
    expect_refused({.name = "adamw", .decay = -1}, "optimizer.weight_decay = -1");
    expect_refused({.name = "sgd", .momentum = 1}, "optimizer.momentum = 1");
    expect_refused({.name = "rmsprop", .alpha = 1}, "optimizer.alpha = 1");
    expect_refused({.name = "lion", .beta2 = 1}, "optimizer.beta2 = 1");
    expect_refused({.name = "adagrad", .epsilon = -1}, "optimizer.eps = -1");
    expect_refused({.name = "sgd", .nesterov = true}, "needs optimizer.momentum above 0");
    expect_refused({.name = "sgd", .decay = -1}, "optimizer.weight_decay = -1");
    expect_refused({.name = "sgd", .rate = -1}, "optimizer.lr = -1");
    expect_refused({.name = "sgd", .max_norm = -1}, "training.max_norm = -1");
    expect_refused({.name = "muon", .momentum = 1}, "optimizer.momentum = 1");
}

namespace {

// How each optimizer is asked for; matrices have more blocks than ranks, and not as many on each.
const std::map<std::string, std::vector<std::string>> ways_to_optimize = {
    {"adafactor", {"name=adafactor"}},
    {"adagrad", {"name=adagrad"}},
    {"adam", {"name=adam"}},
    {"adamw", {"name=adamw"}},
    {"lamb", {"name=lamb"}},
    {"lars", {"name=lars", "trust_coefficient=0.1"}},
    {"lion", {"name=lion", "lr=0.001"}},
    {"momentum", {"name=sgd", "momentum=0.9"}},
    {"muon", {"name=muon"}},
    {"nesterov", {"name=sgd", "momentum=0.9", "nesterov=true"}},
    {"rmsprop", {"name=rmsprop", "momentum=0", "lr=0.001"}},
    {"rmsprop_momentum", {"name=rmsprop", "momentum=0.9", "lr=0.001"}},
    {"sgd", {"name=sgd", "momentum=0"}},
};

class OptimizerLayouts : public testing::TestWithParam<std::pair<const std::string, std::vector<std::string>>> {
protected:
    static WholeRecord trained(const std::vector<std::string>& layout, int ranks) {
        std::vector<std::string> words{"model.n_heads=4",    "model.dim=72",
                                       "training.steps=3",   "training.global_batch_size=8",
                                       "optimizer.lr=0.005", "optimizer.weight_decay=0.1"};
        for (const std::string& word : GetParam().second)
            words.push_back("optimizer." + word);
        for (const std::string& word : layout)
            words.push_back("parallelism." + word);
        return train_on_mesh(tiny_config(words), ranks);
    }
};

INSTANTIATE_TEST_SUITE_P(Optimizers, OptimizerLayouts,
                         testing::ValuesIn(ways_to_optimize.begin(), ways_to_optimize.end()),
                         [](const auto& way) { return way.param.first; });

} // namespace

// With the same bits where states are shared out in any stage of ZeRO, or go to the stages of a pipeline; near where
// tensor ranks cut products, too.
TEST_P(OptimizerLayouts, TrainAsOneRankDoes) {
    const WholeRecord one = trained({}, 1);
    EXPECT_LT(one.losses.back(), one.losses.front()) << "it does not learn";
    const auto expect_same = [&](const std::vector<std::string>& layout, int ranks) {
        EXPECT_TRUE(trained(layout, ranks) == one) << fmt::format("{}", fmt::join(layout, " "));
    };
    expect_same({"data_parallel_degree=3", "zero_stage=1"}, 3);
    expect_same({"data_parallel_degree=2", "zero_stage=2"}, 2);
    expect_same({"data_parallel_degree=4", "zero_stage=3"}, 4);
    expect_same({"pipeline_parallel_degree=2"}, 2);
    const WholeRecord cut = trained({"tensor_parallel_degree=2", "data_parallel_degree=2", "zero_stage=2"}, 4);
    EXPECT_THAT(cut.unlike, testing::IsEmpty());
    const Distances apart = distances(one, cut);
    EXPECT_LE(apart.loss, 1e-6);
    EXPECT_LE(apart.tensor, 4e-5); // as in parallel_modes.cpp
}
