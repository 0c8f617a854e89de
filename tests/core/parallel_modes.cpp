// SPDX-License-Identifier: Apache-2.0
// Every parallel mode, every pair of them and products of three and four train 20 steps as one rank does: with the same
// bits where a mode promises them, else within the one table of distances below.
#include "tests/core/parallel_modes.hpp"
#include "core/run/planted_fault.hpp"
#include "kernels/error.hpp"
#include "tests/core/tiny_classifier.hpp"
#include "tests/core/tiny_recurrent.hpp"

#include <gmock/gmock.h>

using namespace tessera;
using testing::HasSubstr;

namespace {

// The largest of all layouts below, as measured: 2.5e-7, 7.1e-7 and 3.3e-6; of the vocabulary of 50,257, most of whose
// tokens never come, 2.3e-5 of a tensor.
constexpr Distances allowed{.loss = 1e-6, .norm = 2e-6, .tensor = 4e-5};

const Words base = {"training.steps=20", "training.global_batch_size=8", "data.vocab_size=21",
                    "model.n_heads=4",   "lr_scheduler.warmup_steps=5",  "metrics.evaluate_batches=5"};

Words joined(Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

const Words images = {"training.steps=20", "training.global_batch_size=8", "metrics.evaluate_batches=5"};

struct Row { // a model, and what of the modes it does not have
    std::string name;
    Words words;
    std::map<std::string, std::string> lacks{}; // why, by mode
    std::string_view layers{};                  // of [[model.layers]]; empty: a model of text
    bool pairs = true;                          // each pair of modes is tried, too

    Config config(const Words& of) const {
        if (name.starts_with("classifier")) return classifier_config(of);
        if (name == "recurrent") return recurrent_config(of);
        if (name.starts_with("bidirectional")) return bidirectional_config(of);
        if (name == "regression")
            return Config::parse(std::string(tiny_regression), "regression.toml", of, known_keys());
        return layers.empty() ? tiny_config(of) : image_config(layers, of);
    }
};

constexpr std::string_view no_layers = "\n"; // of a model of images that is no list of layers

const std::string no_images = "the model reads no images that 2 ranks could share out",
                  no_experts = "the model has no experts to share out: set model.moe_experts",
                  no_sequence = "shares out a sequence, and samples here have none";

const std::vector<Row> models = {
    {"gpt",
     joined(base, {"model.dropout=0.1", "model.bias=true"}),
     {{"expert", no_experts}, {"rows", no_images}, {"columns", no_images}}},
    {"documents",
     joined(base, {"model.document_end_token=3", "model.position_embedding=rope"}),
     {{"expert", no_experts}, {"rows", no_images}, {"columns", no_images}}},
    {"llama",
     joined(base, {"model.norm=rms_norm", "model.position_embedding=rope", "model.gated_mlp=true",
                   "model.activation=silu", "model.n_heads=8", "model.n_kv_heads=4", "model.tied_head=false"}),
     {{"expert", no_experts}, {"rows", no_images}, {"columns", no_images}}},
    {"grouped_documents",
     joined(base, {"model.document_end_token=3", "model.position_embedding=rope", "model.n_heads=8",
                   "model.n_kv_heads=4", "training.steps=8"}),
     {{"expert", no_experts}, {"rows", no_images}, {"columns", no_images}},
     {},
     false},
    {"mixture",
     joined(base, {"model.moe_experts=4", "training.local_batch_size=4", "training.global_batch_size=16"}),
     {{"rows", no_images}, {"columns", no_images}}},
    {"recurrent", {}, {{"expert", no_experts}, {"rows", no_images}, {"columns", no_images}}},
    {"perceptron",
     images,
     {{"expert", no_experts}, {"sequence", no_sequence}, {"ulysses", no_sequence}, {"ring", no_sequence}},
     tiny_mlp},
    {"convolutions",
     images,
     {{"expert", no_experts}, {"sequence", no_sequence}, {"ulysses", no_sequence}, {"ring", no_sequence}},
     tiny_cnn},
    // Segments, types, masked tokens that go to the last stage, biases of the head.
    {"bert",
     joined(base, {"model.type=bert", "model.bias=true", "model.dropout=0.1", "model.padding_token=3",
                   "model.separator_token=5", "model.mask_probability=0.3", "training.steps=6"}),
     {{"expert", no_experts}, {"rows", no_images}, {"columns", no_images}},
     {}},
    // Texts with a label, some of them filled up: what their first tokens have come to.
    {"classifier", {}, {{"expert", no_experts}, {"rows", no_images}, {"columns", no_images}}, {}, false},
    {"t5",
     joined(base, {"model.type=t5", "model.norm=rms_norm", "model.activation=relu", "model.dropout=0.1",
                   "model.padding_token=3", "model.relative_buckets=8", "training.steps=6"}),
     {{"expert", no_experts}, {"rows", no_images}, {"columns", no_images}},
     {}},
    {"vit",
     joined(images, {"model.type=vit", "model.bias=true", "model.patch_size=1", "model.n_layers=2", "model.n_heads=4",
                     "model.dim=16", "model.init_std=0.2"}),
     {{"expert", no_experts}, {"sequence", no_sequence}, {"ulysses", no_sequence}, {"ring", no_sequence}},
     no_layers},
    {"residual",
     // SGD: the biases before a norm have no gradient but rounding, which Adam would make as large as any.
     joined(images, {"training.local_batch_size=4", "training.global_batch_size=16", "optimizer.name=sgd"}),
     {{"expert", no_experts},
      {"sequence", no_sequence},
      {"ulysses", no_sequence},
      {"ring", no_sequence},
      {"tensor", "no two neighbouring layers of this model can be shared out"}},
     tiny_resnet},
    {"transposed",
     joined(images, {"training.steps=8"}),
     {{"expert", no_experts}, {"sequence", no_sequence}, {"ulysses", no_sequence}, {"ring", no_sequence}},
     tiny_transposed,
     false},
    {"bidirectional", {}, {{"expert", no_experts}, {"rows", no_images}, {"columns", no_images}}, {}, false},
    {"regression",
     {"metrics.evaluate_batches=5"},
     {{"expert", no_experts},
      {"sequence", no_sequence},
      {"ulysses", no_sequence},
      {"ring", no_sequence},
      {"rows", no_images},
      {"columns", no_images}},
     {},
     false},
};

// Runs of one model, each layout against one rank. A run is made once.
class Table {
public:
    explicit Table(const Row& row) : row_(row) {}

    // Nothing where there is no such layout, and the test says that it is refused.
    void check(const LayoutOfModes& layout) {
        SCOPED_TRACE(fmt::format("{}: {}", row_.name, layout.name()));
        if (!layout.impossible().empty()) return;
        for (const Mode& mode : layout.modes)
            if (const auto lack = row_.lacks.find(mode.name); lack != row_.lacks.end())
                return layout.modes.size() == 1 ? expect_refused(layout, lack->second) : void();
        const WholeRecord one = run({}, layout.experiment(row_.words));
        const WholeRecord cut = run(layout.cutting(), layout.cutting().words(layout.experiment(row_.words)));
        const WholeRecord found = train_on_mesh(row_.config(layout.words(row_.words)), layout.ranks());
        expect_near(one, cut);
        if (sums_otherwise(layout)) return expect_near(one, found);
        EXPECT_EQ(found.losses, cut.losses);
        EXPECT_TRUE(found == cut) << "not the same bits";
    }

    void expect_refused(const LayoutOfModes& layout, const std::string& sentence) const {
        EXPECT_THAT([&] { train_on_mesh(row_.config(layout.words(row_.words)), layout.ranks()); },
                    testing::ThrowsMessage<ConfigError>(HasSubstr(sentence)));
    }

private:
    // A router's gradient: made of parts of the sequence that are summed or, where the layer is computed again from
    // what has been gathered, of all of it.
    bool sums_otherwise(const LayoutOfModes& layout) const {
        const auto has = [&](std::string_view name) { return std::ranges::count(layout.modes, name, &Mode::name) > 0; };
        return row_.name == "mixture" && has("full") && (has("sequence") || has("ring"));
    }

    const WholeRecord& run(const LayoutOfModes& layout, const Words& words) {
        const auto [found, is_new] = runs_.try_emplace(fmt::format("{}", fmt::join(words, " ")));
        if (is_new) found->second = train_on_mesh(row_.config(words), layout.ranks());
        return found->second;
    }

    void expect_near(const WholeRecord& one, const WholeRecord& cut) {
        EXPECT_LT(one.losses.back(), one.losses.front() - 0.05) << "it does not learn";
        EXPECT_THAT(cut.unlike, testing::IsEmpty());
        const Distances found = distances(one, cut);
        EXPECT_LE(found.loss, allowed.loss);
        EXPECT_LE(found.norm, allowed.norm);
        EXPECT_LE(found.tensor, allowed.tensor);
    }

    const Row& row_;
    std::map<std::string, WholeRecord> runs_;
};

} // namespace

class ParallelModes : public testing::TestWithParam<Row> {};
INSTANTIATE_TEST_SUITE_P(Models, ParallelModes, testing::ValuesIn(models),
                         [](const auto& row) { return row.param.name; });

TEST_P(ParallelModes, EachTrainsAsOneRankDoes) {
    Table table(GetParam());
    for (const Mode& mode : parallel_modes())
        table.check({{mode}});
}

TEST_P(ParallelModes, EveryPairTrainsAsOneRankDoes) {
    if (!GetParam().pairs) GTEST_SKIP() << "its modes and products are tried, which is much cheaper";
    Table table(GetParam());
    const std::vector<Mode> modes = parallel_modes();
    for (std::size_t i = 0; i < modes.size(); ++i)
        for (std::size_t j = 0; j < i; ++j)
            table.check({{modes[j], modes[i]}});
}

// The fourth mode of a product costs no ranks: 8 threads share the cores.
using Products = std::vector<std::vector<std::string_view>>;

const Products of_gpt = {
    {"data", "tensor", "1f1b"},
    {"zero_1", "sequence", "zero_bubble"},
    {"zero_2", "ulysses", "full"},
    {"zero_3", "tensor", "selective"},
    {"zero_3", "sequence", "ring"},
    {"zero_1", "ring", "interleaved"},
    {"data", "ulysses", "gpipe"},
    {"tensor", "ulysses", "zero_bubble"},
    {"sequence", "ring", "1f1b"},
    {"zero_2", "tensor", "interleaved", "accumulation"},
    {"zero_3", "zero_bubble", "full", "accumulation"},
    {"data", "zero_1", "sequence", "selective"},
    {"zero_3", "ulysses", "sequence", "full"},
    {"ring", "1f1b", "zero_2", "selective"},
};

const Products of_mixture = {
    {"zero_1", "expert", "tensor"},       {"zero_3", "expert", "full"},
    {"expert", "sequence", "1f1b"},       {"expert", "ulysses", "zero_bubble"},
    {"zero_2", "expert", "ring", "full"}, {"data", "expert", "tensor", "selective"},
};

const Products of_llama = {
    {"zero_3", "sequence", "1f1b"},
    {"zero_1", "ring", "tensor"},
    {"ulysses", "zero_bubble", "selective"},
    {"sequence", "ring", "full"},
};

const Products of_perceptron = {{"data", "tensor", "1f1b"}, {"hybrid", "tensor", "full"}};

const Products of_convolutions = {
    {"zero_2", "rows", "tensor"},      {"zero_3", "rows", "tensor"},  {"zero_2", "columns", "tensor", "full"},
    {"zero_3", "rows", "columns"},     {"data", "columns", "tensor"}, {"hybrid", "rows", "selective"},
    {"zero_1", "rows", "zero_bubble"}, {"rows", "columns", "tensor"}, {"zero_2", "samples", "tensor"},
};

const Products of_bert = {
    {"zero_2", "tensor", "1f1b"}, {"zero_3", "sequence", "selective"}, {"data", "ulysses", "full"}};

const Products of_recurrent = {
    {"zero_1", "tensor", "1f1b"}, {"zero_3", "zero_bubble", "full"}, {"hybrid", "ring", "selective"}};

const Products of_bidirectional = {{"zero_1", "tensor", "1f1b"},    {"zero_3", "zero_bubble", "full"},
                                   {"hybrid", "ring", "selective"}, {"tensor", "ulysses"},
                                   {"sequence", "ulysses"},         {"sequence", "ring"}};

const Products of_residual = {{"zero_3", "rows", "columns"}, {"hybrid", "rows", "full"},
                              {"zero_1", "columns", "1f1b"}, {"zero_3", "samples", "rows"},
                              {"data", "samples", "full"},   {"samples", "columns", "zero_bubble"}};

const Products of_vit = {{"zero_3", "tensor", "full"}, {"hybrid", "zero_bubble"}};

const std::map<std::string, Products> products = {{"gpt", of_gpt},
                                                  {"documents", of_bert},
                                                  {"llama", of_llama},
                                                  {"grouped_documents", of_llama},
                                                  {"mixture", of_mixture},
                                                  {"perceptron", of_perceptron},
                                                  {"convolutions", of_convolutions},
                                                  {"recurrent", of_recurrent},
                                                  {"bert", of_bert},
                                                  {"classifier", of_bert},
                                                  {"residual", of_residual},
                                                  {"transposed", of_residual},
                                                  {"bidirectional", of_bidirectional},
                                                  {"regression", of_perceptron},
                                                  {"t5", of_bert},
                                                  {"vit", of_vit}};

TEST_P(ParallelModes, ProductsTrainAsOneRankDoes) {
    Table table(GetParam());
    for (const auto& names : products.at(GetParam().name))
        table.check(layout_of(names));
}

namespace {

// What divides nothing evenly.
struct Uneven {
    std::string name;
    Words words;
    std::vector<std::string_view> modes; // for their words; degrees as below
    Degrees degrees;
    bool same_bits = true;
    std::string_view layers{}; // as of Row

    Row row(Words more = {}) const {
        const bool own = layers == no_layers; // the config of the name says it all
        return {name, joined(joined(own ? Words{} : layers.empty() ? base : images, words), more), {}, layers};
    }
};

// 4 micro-batches on 3 ranks; 3 of a step's 4 micro-batches left for the last round on 4; and so on.
const Words large_vocabulary = {"data.vocab_size=50257", "model.n_layers=1",
                                "model.dim=8",           "model.n_heads=2",
                                "training.seq_len=4",    "training.local_batch_size=1",
                                "training.steps=8",      "training.global_batch_size=2"};
// Ranks differ in how many tokens they have to find.
const Words masked = {"model.type=bert",           "model.bias=true",         "model.dropout=0.1",
                      "training.steps=6",          "model.separator_token=5", "model.padding_token=3",
                      "model.mask_probability=0.3"};
const Words encoder_decoder = {"model.type=t5",         "model.norm=rms_norm", "model.activation=relu",
                               "model.padding_token=3", "model.dropout=0.1",   "training.steps=6"};
const Words three_heads = {"model.n_heads=3", "model.dim=12", "training.seq_len=13"};
const std::vector<Uneven> uneven = {
    {"data_3", {}, {}, {{"data_parallel", 3}}},
    {"zero_1_3", {}, {"zero_1"}, {{"data_parallel", 3}}},
    {"tensor_3", {"model.n_heads=3", "model.dim=12"}, {}, {{"tensor_parallel", 3}}, false},
    {"sequence_3",
     {"model.n_heads=3", "model.dim=12", "training.seq_len=13"},
     {"sequence"},
     {{"tensor_parallel", 3}},
     false},
    {"ulysses_3", {"model.n_heads=3", "model.dim=12"}, {}, {{"context_parallel", 3}}, false},
    {"ring_3", {}, {"ring"}, {{"context_parallel", 3}}, false},
    {"stages_3", {"model.n_layers=5"}, {"1f1b"}, {{"pipeline_parallel", 3}}},
    {"five_layers", {"model.n_layers=5"}, {"zero_bubble"}, {{"pipeline_parallel", 2}}},
    {"five_layers_zero_3", {"model.n_layers=5"}, {"1f1b", "zero_3"}, {{"pipeline_parallel", 2}, {"data_parallel", 2}}},
    {"vocabulary_2", large_vocabulary, {}, {{"tensor_parallel", 2}}, false},
    {"vocabulary_4", joined(large_vocabulary, {"model.n_heads=4"}), {}, {{"tensor_parallel", 4}}, false},
    // 7 micro-batches: shares of 4 and 3, of 3, 2 and 2.
    {"seven_micro_batches", {"training.global_batch_size=14"}, {}, {{"data_parallel", 2}}},
    {"seven_of_3", {"training.global_batch_size=14"}, {"zero_1"}, {{"data_parallel", 3}}},
    // An epoch of 39 windows ends within a batch of 8.
    {"end_of_an_epoch",
     {"data.synthetic_tokens=600", "data.validation_fraction=0.2"},
     {"zero_1"},
     {{"data_parallel", 3}}},
    // 5 micro-batches of the validation split on 4 ranks: some have one, some two.
    {"uneven_evaluation", {}, {"zero_3"}, {{"data_parallel", 4}}},
    // Ranks without samples: one of the second replica, where 4 and 1 make a whole tree; and all but one.
    {"hybrid_evaluation", {}, {"zero_3"}, {{"data_parallel", 2}, {"data_parallel_replicate", 2}}},
    {"three_replicas",
     {"training.global_batch_size=14"},
     {"zero_1"},
     {{"data_parallel", 2}, {"data_parallel_replicate", 3}}},
    {"one_evaluates", {"metrics.evaluate_batches=1"}, {"zero_3"}, {{"data_parallel", 4}}},
    {"one_stage_evaluates",
     {"metrics.evaluate_batches=1"},
     {"1f1b", "zero_1"},
     {{"data_parallel", 3}, {"pipeline_parallel", 2}}},
    // Training, too: of 4 micro-batches, or 2.
    {"five_ranks", {}, {}, {{"data_parallel", 5}}},
    {"six_ranks_zero_1", {}, {"zero_1"}, {{"data_parallel", 6}}},
    {"two_of_four", {"training.global_batch_size=4"}, {"1f1b"}, {{"data_parallel", 4}, {"pipeline_parallel", 2}}},
    {"two_of_three_tensor",
     {"training.global_batch_size=4"},
     {},
     {{"data_parallel", 3}, {"tensor_parallel", 2}},
     false},
    {"replica_without",
     {"training.global_batch_size=4"},
     {"zero_1"},
     {{"data_parallel", 2}, {"data_parallel_replicate", 2}}},
    // 8 rows and 7 columns of pixels, of which poolings leave 4 and 3, and 3 and 2.
    {"images_3", {}, {"zero_1"}, {{"data_parallel", 3}}, true, tiny_cnn},
    {"rows_3", {}, {}, {{"spatial_parallel", 3}}, false, tiny_cnn},
    {"columns_3_seven_micro_batches",
     {"training.global_batch_size=14"},
     {"zero_1"},
     {{"spatial_parallel_width", 3}, {"data_parallel", 2}},
     false,
     tiny_cnn},
    {"stages_of_images_3", {}, {"1f1b"}, {{"pipeline_parallel", 3}}, true, tiny_cnn},
    {"residual_3", {}, {"zero_1"}, {{"data_parallel", 3}}, true, tiny_resnet},
    {"residual_rows_3", {}, {}, {{"spatial_parallel", 3}}, false, tiny_resnet},
    // 5 samples of a micro-batch on 3 ranks, 2 on 4, and evaluations that end with fewer; batch norms see all of them.
    {"residual_samples_3",
     {"training.local_batch_size=5", "training.global_batch_size=10", "metrics.evaluate_batches=0",
      "optimizer.name=sgd"},
     {},
     {{"sample_parallel", 3}},
     false,
     tiny_resnet},
    {"residual_two_samples_4",
     {"training.local_batch_size=2", "optimizer.name=sgd"},
     {"zero_1"},
     {{"sample_parallel", 4}, {"data_parallel", 2}},
     false,
     tiny_resnet},
    {"samples_3", {"training.local_batch_size=4"}, {}, {{"sample_parallel", 3}}, false},
    {"masked_samples_3", joined(masked, {"training.local_batch_size=4"}), {}, {{"sample_parallel", 3}}, false},
    {"masked_3", masked, {"zero_1"}, {{"data_parallel", 3}}},
    {"masked_sequence_3", joined(masked, three_heads), {"sequence"}, {{"tensor_parallel", 3}}, false},
    {"masked_stages_3", joined(masked, {"model.n_layers=5"}), {"zero_bubble"}, {{"pipeline_parallel", 3}}},
    {"encoder_decoder_3", encoder_decoder, {"zero_1"}, {{"data_parallel", 3}}},
    {"encoder_decoder_sequence_3", joined(encoder_decoder, three_heads), {"sequence"}, {{"tensor_parallel", 3}}, false},
    {"encoder_decoder_stages_3", // cut within a stack
     joined(encoder_decoder, {"model.n_layers=1", "model.decoder_layers=4"}),
     {"1f1b"},
     {{"pipeline_parallel", 3}}},
    // One sample a micro-batch, which context ranks cannot share out: cells run on the whole sequence.
    {"bidirectional_context_tensor",
     {"training.local_batch_size=1"},
     {"sequence"},
     {{"context_parallel", 2}, {"tensor_parallel", 2}},
     false,
     no_layers},
    {"classifier_3", {}, {"zero_1"}, {{"data_parallel", 3}}, true, no_layers},
    {"perceptron_3", {}, {"zero_1"}, {{"data_parallel", 3}}, true, tiny_mlp},
    {"perceptron_tensor_3", {}, {}, {{"tensor_parallel", 3}}, false, tiny_mlp},
    {"perceptron_stages_3", {}, {"zero_bubble"}, {{"pipeline_parallel", 3}}, true, tiny_mlp},
};

} // namespace

class UnevenLayouts : public testing::TestWithParam<Uneven> {};
INSTANTIATE_TEST_SUITE_P(Cases, UnevenLayouts, testing::ValuesIn(uneven),
                         [](const auto& uneven) { return uneven.param.name; });

namespace {

WholeRecord train_uneven(const Uneven& how, const TinyTraining::Change& change = {}) {
    Words words;
    LayoutOfModes modes = layout_of(how.modes);
    for (Mode& mode : modes.modes)
        words = joined(words, mode.words);
    int ranks = 1;
    for (const auto& [axis, degree] : how.degrees) {
        words.push_back(fmt::format("parallelism.{}_degree={}", axis, degree));
        ranks *= degree;
    }
    const Row row = how.row(words);
    return train_on_mesh(row.config(row.words), ranks, change);
}

} // namespace

TEST_P(UnevenLayouts, TrainAsOneRankDoes) {
    const Row row = GetParam().row();
    const WholeRecord one = train_on_mesh(row.config(row.words), 1);
    const WholeRecord found = train_uneven(GetParam());
    EXPECT_EQ(found == one, GetParam().same_bits);
    EXPECT_THAT(found.unlike, testing::IsEmpty());
    const Distances apart = distances(one, found);
    EXPECT_LE(apart.loss, allowed.loss);
    EXPECT_LE(apart.norm, allowed.norm);
    EXPECT_LE(apart.tensor, allowed.tensor);
}

TEST(ParallelModesRefuse, WhatCannotBeSharedOut) {
    const auto refusal = [](const Uneven& how) { return [=] { train_uneven(how); }; };
    using testing::ThrowsMessage;
    EXPECT_THAT(refusal({"", {"training.seq_len=13"}, {}, {{"context_parallel", 2}}}),
                ThrowsMessage<ConfigError>(HasSubstr("13 tokens cannot be shared out evenly over 2 ranks of context "
                                                     "parallelism")));
    EXPECT_THAT(refusal({"", {"training.seq_len=14"}, {"ring"}, {{"context_parallel", 2}}}),
                ThrowsMessage<ConfigError>(HasSubstr("14 tokens cannot be dealt out to 2 ranks of context parallelism "
                                                     "in 4 equal chunks")));
    EXPECT_THAT(refusal({"", {}, {}, {{"context_parallel", 3}}}),
                ThrowsMessage<ConfigError>(HasSubstr("4 heads cannot be shared out evenly over 3 ranks of context")));
    EXPECT_THAT(
        refusal({"", {"model.n_heads=6", "model.dim=24"}, {}, {{"context_parallel", 2}, {"tensor_parallel", 2}}}),
        ThrowsMessage<ConfigError>(HasSubstr("(6) is cut by the mesh axes 'context' and 'tensor': all_to_all "
                                             "over the outer one has no way")));
    EXPECT_THAT(refusal({"", {"model.n_kv_heads=2"}, {}, {{"context_parallel", 4}}}),
                ThrowsMessage<ConfigError>(HasSubstr("2 heads cannot be shared out evenly over 4 ranks of context")));
    EXPECT_THAT(refusal({"", {"model.n_kv_heads=2"}, {}, {{"tensor_parallel", 4}}}),
                ThrowsMessage<ConfigError>(HasSubstr("has 2 groups of heads")));
    EXPECT_THAT(refusal({"", {}, {}, {{"tensor_parallel", 3}}}), ThrowsMessage<ConfigError>(HasSubstr("4 heads")));
    EXPECT_THAT(refusal({"", {}, {"zero_2"}, {{"data_parallel", 3}}}),
                ThrowsMessage<ConfigError>(HasSubstr("must be a multiple of that")));
    EXPECT_THAT(refusal({"", {}, {"1f1b"}, {{"pipeline_parallel", 3}}}),
                ThrowsMessage<ConfigError>(HasSubstr("the 2 layers of the model cannot be shared out over 3 stages")));
}

// A rate that is longer by a thousandth, and one collective that does not happen, of each kind of layout.
TEST(ParallelModesCompare, FindsWhatIsWrong) {
    const Words words = joined(base, {"model.bias=true"});
    const WholeRecord one = train_on_mesh(tiny_config(words), 1);
    const Distances longer = distances(one, train_on_mesh(tiny_config(joined(words, {"optimizer.lr=0.01001"})), 1));
    EXPECT_GT(longer.loss, 10 * allowed.loss);
    EXPECT_GT(longer.norm, 10 * allowed.norm);
    EXPECT_GT(longer.tensor, 10 * allowed.tensor);
    const auto dropped = [&](std::string_view mode, const std::string& what) {
        const LayoutOfModes layout = layout_of({mode});
        const WholeRecord found = train_on_mesh(tiny_config(layout.words(words)), layout.ranks(),
                                                [&](Plan& plan, int) { plant_fault("drop:" + what, 2, plan); });
        EXPECT_FALSE(found == one) << mode;
        return distances(one, found);
    };
    for (const auto& [mode, what] : std::vector<std::pair<std::string_view, std::string>>{
             {"data", "layers.1.mlp.up.weight_gradient"},
             {"zero_2", "layers.1.mlp.up.weight_gradient.reduce_scatter"},
             {"tensor", "layers.0.attention.out.all_reduce"},
             {"sequence", "layers.1.mlp.down.reduce_scatter"},
             {"ulysses", "layers.0.attention.qkv.all_to_all"},
             {"1f1b", "layers.0.mlp.down"}}) {
        SCOPED_TRACE(fmt::format("{} without {}", mode, what));
        const Distances found = dropped(mode, what);
        EXPECT_GT(found.loss, 10 * allowed.loss);
        EXPECT_GT(found.tensor, 10 * allowed.tensor);
    }
}

// Each rank's own statistics, and sums for the gradient that are its own.
TEST(ParallelModesCompare, FindsABatchNormOfARanksOwnSamples) {
    const Uneven& how = *std::ranges::find(uneven, "residual_samples_3", &Uneven::name);
    const Row row = how.row();
    const WholeRecord one = train_on_mesh(row.config(row.words), 1);
    for (const char* sum : {"norm1.shards.all_reduce", "norm1.gradient.shards.all_reduce"}) {
        SCOPED_TRACE(sum);
        const WholeRecord found =
            train_uneven(how, [&](Plan& plan, int) { plant_fault(fmt::format("drop:{}", sum), 2, plan); });
        const Distances apart = distances(one, found);
        EXPECT_GT(apart.loss, 10 * allowed.loss);
        EXPECT_GT(apart.tensor, 10 * allowed.tensor);
    }
}
