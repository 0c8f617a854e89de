// SPDX-License-Identifier: Apache-2.0
// Layouts of ranks that divide nothing evenly train as one rank does, or are refused.
#include "core/run/planted_fault.hpp"
#include "kernels/error.hpp"
#include "tests/core/parallel_mode_rows.hpp"

#include <gmock/gmock.h>

namespace tessera::mode_rows {

using testing::HasSubstr;

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

} // namespace tessera::mode_rows
