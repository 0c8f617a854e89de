// SPDX-License-Identifier: Apache-2.0
// The two halves of the cross entropy, with the gathering between them, on thread ranks against the whole op.
#include "core/ops/ops.hpp"
#include "core/plan/redistribute.hpp"
#include "parallel/communication/groups.hpp"
#include "parallel/communication/local.hpp"
#include "tests/core/sharded_run.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

using namespace tessera;

namespace {

const Shape rows{3, 7};

struct Whole { // logits, targets[, scale] -> [dlogits, ]loss
    Whole(const OpPointer& made, std::int64_t vocabulary, std::int64_t columns, DType dtype) : op(made) {
        std::mt19937 generator(5);
        inputs.emplace_back(Shape{rows[0], rows[1], columns}, dtype);
        inputs.emplace_back(rows, DType::i32);
        fill_randomly(inputs[0], generator);
        fill_randomly(inputs[1], generator, 0, static_cast<std::int32_t>(vocabulary));
        inputs[1].set(4, static_cast<double>(vocabulary - 1));
        inputs[1].set(5, -1); // is not counted
        if (made->name() == "cross_entropy") {
            inputs.emplace_back(Shape{}, DType::f32);
            inputs[2].set(0, 0.125);
        }
        for (const TensorType& type : op->infer(types_of(views_of(inputs))))
            outputs.emplace_back(type.shape, type.dtype);
        run_op(*op, views_of(inputs), views_of(outputs));
    }

    OpPointer op;
    Samples inputs, outputs;
};

// Placements of the inputs where the classes are cut.
std::vector<Placement> cut_classes(const Whole& whole) {
    std::vector<Placement> placements(whole.inputs.size());
    placements[0] = Placement::shard(2);
    return placements;
}

// Runs one half on a rank, with the locality that the plan would give.
void run_half(const Op& op, const std::vector<View>& inputs, const std::vector<View>& outputs, const Whole& whole,
              int ranks, int rank) {
    Locality locality;
    for (std::size_t i = 0; i < whole.inputs.size(); ++i) {
        const Shape& shape = whole.inputs[i].view().shape;
        locality.wholes.push_back(shape);
        locality.inputs.push_back(box_of(shape, cut_classes(whole)[i], ranks, rank));
        locality.counts.push_back(true);
    }
    Stream stream = CpuStream(1);
    run_op(op, inputs, outputs, stream, &locality);
}

// What each rank has in the end: its part of dlogits, if there are any, and the loss.
std::vector<Samples> run_halves(const Whole& whole, int ranks) {
    const std::vector<TensorType> types = types_of(views_of(whole.inputs));
    const auto halves = whole.op->halves(types, cut_classes(whole), ranks);
    const Shape statistics = halves->first->infer(types).at(0).shape;
    EXPECT_EQ(statistics, (Shape{ranks, 3, rows[0], rows[1]}));
    std::mt19937 generator;
    const Samples logits = split(whole.inputs[0], Placement::shard(2), ranks, generator);
    std::vector<Samples> results(static_cast<std::size_t>(ranks));
    run_as_threads(ranks, [&](Communicator& communicator) {
        const auto rank = static_cast<std::size_t>(communicator.rank());
        Stream stream = CpuStream(1);
        Groups groups(Mesh({{"tensor", ranks}}), communicator);
        const Sample mine({1, 3, rows[0], rows[1]}, DType::f32), all(statistics, DType::f32);
        std::vector<View> inputs = views_of(whole.inputs);
        inputs[0] = logits[rank].view();
        run_half(*halves->first, inputs, {mine.view()}, whole, ranks, communicator.rank());
        const Redistribute gather(0, ranks, Placement::shard(0), Placement::replicate());
        const View from = mine.view(), to = all.view();
        gather.run(stream, {{&from, 1}, {&to, 1}, View(), nullptr, &groups});
        inputs.push_back(to);
        Samples& result = results[rank];
        if (whole.outputs.size() == 2) result.emplace_back(inputs[0].shape, inputs[0].dtype);
        result.emplace_back(Shape{}, DType::f32);
        run_half(*halves->second, inputs, views_of(result), whole, ranks, communicator.rank());
    });
    return results;
}

void expect_halves_are_whole(const OpPointer& op, std::int64_t vocabulary, std::int64_t columns, DType dtype,
                             int ranks) {
    SCOPED_TRACE(fmt::format("{}: {} classes in {} columns of {}, {} ranks", op->name(), vocabulary, columns,
                             name_of(dtype), ranks));
    const Whole whole(op, vocabulary, columns, dtype);
    const std::vector<Samples> results = run_halves(whole, ranks);
    Samples gradients;
    for (const Samples& result : results) {
        EXPECT_TRUE(close_to(result.back(), whole.outputs.back().values(), tolerance(DType::f32, Kind::loss)));
        EXPECT_TRUE(result.back().same_bits(results[0].back())); // every rank has the whole sum
        if (result.size() == 2) gradients.push_back(result[0]);
    }
    if (!gradients.empty()) expect_joined(gradients, Placement::shard(2), whole.outputs[0], dtype);
}

} // namespace

TEST(CrossEntropyHalves, AreTheWholeOnAnyRanks) {
    for (const std::int64_t vocabulary : {3, 19, 65, 257}) // 3 leaves the fourth rank without a class
        for (const OpPointer& op : {make_cross_entropy(vocabulary), make_cross_entropy_loss(vocabulary)})
            for (const std::int64_t padding : {0, 1, 9})
                for (const DType dtype : {DType::f32, DType::bf16})
                    for (const int ranks : {1, 2, 3, 4})
                        expect_halves_are_whole(op, vocabulary, vocabulary + padding, dtype, ranks);
}

TEST(CrossEntropyHalves, AreForClassesThatAreCutAlone) {
    const Whole whole(make_cross_entropy(19), 19, 19, DType::f32);
    const std::vector<TensorType> types = types_of(views_of(whole.inputs));
    const Placement replicate = Placement::replicate();
    EXPECT_TRUE(whole.op->halves(types, std::vector{Placement::shard(2), replicate, replicate}, 2));
    EXPECT_FALSE(whole.op->halves(types, std::vector{Placement::shard(1), Placement::shard(1), replicate}, 2));
    EXPECT_FALSE(whole.op->halves(types, std::vector{Placement::shard(2), Placement::shard(1), replicate}, 2));
    EXPECT_FALSE(whole.op->halves(types, std::vector{Placement::partial(), replicate, replicate}, 2));
}

// Over the other axes of a mesh the halves share out rows, as the whole op does.
TEST(CrossEntropyHalves, ShareOutRows) {
    for (const OpPointer& op : {make_cross_entropy(19), make_cross_entropy_loss(19)}) {
        const Whole whole(op, 19, 19, DType::f32);
        const std::vector<TensorType> types = types_of(views_of(whole.inputs));
        const auto halves = op->halves(types, cut_classes(whole), 1);
        Samples statistics;
        statistics.emplace_back(halves->first->infer(types).at(0).shape, DType::f32);
        run_op(*halves->first, views_of(whole.inputs), views_of(statistics));
        for (const PlacementRule& rule : halves->first->placements(types))
            if (rule.inputs[0] != Placement::shard(2))
                expect_sharded_is_whole(*halves->first, whole.inputs, types_of(views_of(statistics)), rule, 2);
        Samples inputs = whole.inputs;
        inputs.push_back(statistics[0]);
        const std::vector<TensorType> outputs = types_of(views_of(whole.outputs));
        for (const PlacementRule& rule : halves->second->placements(types_of(views_of(inputs))))
            if (rule.inputs[0] != Placement::shard(2))
                expect_sharded_is_whole(*halves->second, inputs, outputs, rule, 2);
    }
}
