// SPDX-License-Identifier: Apache-2.0
// Every parallel mode, every pair of them and products of three and four train 20 steps as one rank does: with the same
// bits where a mode promises them, else within the one table of distances (parallel_mode_rows.hpp).
#include "core/run/planted_fault.hpp"
#include "tests/core/parallel_mode_rows.hpp"

#include <gmock/gmock.h>

namespace tessera::mode_rows {

using testing::HasSubstr;

namespace {

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

} // namespace tessera::mode_rows
