// SPDX-License-Identifier: Apache-2.0
// A small convolutional network whose images ranks share out, alone and with other axes, trained against one rank; what
// its plan puts between the ranks; and that a lost number is found.
#include "core/cost/step_cost.hpp"
#include "tests/core/image_network.hpp"
#include "tests/core/tiny_machine.hpp"

using namespace tessera;
using namespace tessera::images;

namespace {

std::vector<ImageRecord> train(const Settings& settings) {
    const Mesh mesh(settings.axes);
    std::vector<ImageRecord> records(static_cast<std::size_t>(mesh.size()));
    run_as_threads(mesh, [&](int rank, Groups groups) {
        records[static_cast<std::size_t>(rank)] = train_rank(settings, rank, groups);
    });
    return records;
}

void expect_trains_as_one_rank(Settings settings) {
    SCOPED_TRACE(settings.text());
    const std::vector<ImageRecord> records = train(settings);
    settings.axes = {{"data", 1}};
    settings.zero_stage = 0;
    const ImageRecord one = train(settings)[0];
    EXPECT_LT(one.losses.back(), 0.8 * one.losses.front()); // it learns
    const double allowed = tolerance(settings.dtype, Kind::training).relative;
    for (const ImageRecord& record : records) {
        EXPECT_LE(largest_difference(record.losses, one.losses), allowed);
        EXPECT_LE(largest_difference(record.norms, one.norms), 10 * allowed);
        EXPECT_EQ(record.halo_bytes, record.planned_halo_bytes);
    }
    std::int64_t fetched = 0;
    for (const ImageRecord& record : records)
        fetched += record.halo_bytes;
    EXPECT_GT(fetched, 0);
}

} // namespace

TEST(SpatialTraining, StripsOfAnyHeightTrainAsOneRankDoes) {
    for (const auto& [ranks, height] : {std::pair{2, 9}, {3, 9}, {4, 3}}) // of 3 rows some rank of 4 has none
        expect_trains_as_one_rank({.axes = {{"data", 1}, {"spatial", ranks}}, .height = height});
    // Ten, since what bf16 rounds otherwise grows from step to step.
    expect_trains_as_one_rank({.axes = {{"data", 1}, {"spatial", 3}}, .dtype = DType::bf16, .steps = 10});
}

TEST(SpatialTraining, TilesTrainAsOneRankDoes) {
    expect_trains_as_one_rank({.axes = {{"data", 1}, {"spatial_width", 3}}});
    expect_trains_as_one_rank({.axes = {{"data", 1}, {"spatial", 2}, {"spatial_width", 2}}});
}

TEST(SpatialTraining, WithOtherAxesItTrainsAsOneRankDoes) {
    for (const int stage : {0, 1, 2, 3})
        expect_trains_as_one_rank({.axes = {{"data", 2}, {"spatial", 2}}, .zero_stage = stage});
    expect_trains_as_one_rank({.axes = {{"data", 1}, {"spatial", 2}, {"tensor", 2}}});
    for (const int stage : {1, 2, 3})
        expect_trains_as_one_rank({.axes = {{"data", 2}, {"spatial", 2}, {"tensor", 2}}, .zero_stage = stage});
    expect_trains_as_one_rank({.axes = {{"data", 1}, {"spatial", 2}, {"tensor", 2}}, .sequence = true});
    expect_trains_as_one_rank({.axes = {{"data", 1}, {"expert", 2}, {"spatial", 2}}});
    for (const Recompute again : {Recompute::selective, Recompute::full})
        expect_trains_as_one_rank({.axes = {{"data", 1}, {"spatial", 3}}, .again = again});
}

// 4 bytes of each halo are enough.
TEST(SpatialTraining, ALostNumberIsFound) {
    Settings settings{.axes = {{"data", 1}, {"spatial", 3}}};
    const ImageRecord right = train(settings)[0];
    settings.lost = 4;
    const ImageRecord wrong = train(settings)[0];
    EXPECT_GT(largest_difference(wrong.losses, right.losses), 10 * tolerance(DType::f32, Kind::training).relative);
}

// Convolutions and poolings fetch, the mean over the image and the gradients of weights are sums, and no image is ever
// put together.
TEST(SpatialTraining, NothingButHalosAndSumsTravels) {
    const Stream stream = CpuStream(1);
    const Settings settings{.axes = {{"data", 1}, {"spatial", 3}}};
    Program program = std::move(describe(settings).program);
    program.plan = make_plan(program.model.graph, program.layout, 1, stream);
    for (const Transfers& transfers : transfers_of(program.plan, program.layout)) {
        if (transfers.collective == Collective::halo) continue;
        EXPECT_EQ(transfers.collective, Collective::all_reduce); // of the mean over the image
        EXPECT_EQ(transfers.phase, Phase::forward);
        EXPECT_EQ(transfers.calls, 1);
    }
    const auto halos_in = [&](Phase phase) {
        return std::ranges::count_if(program.plan.calls(phase), [&](const Call& call) {
            const auto transfer = program.plan.graph.nodes()[static_cast<std::size_t>(call.node)].op->transfer();
            return transfer && transfer->collective == Collective::halo;
        });
    };
    EXPECT_EQ(halos_in(Phase::forward), 5);
    EXPECT_EQ(halos_in(Phase::backward), 7); // gradients of three weights, two images and two poolings
    for (const Call& call : program.plan.calls(Phase::forward)) {
        const Node& node = program.plan.graph.nodes()[static_cast<std::size_t>(call.node)];
        if (node.name.starts_with("layers.") || node.name == "pool" || node.name == "relu") {
            EXPECT_EQ(program.plan.value(node.outputs[0]).placements[1], Placement::shard(1)) << node.name;
        }
    }
    for (const Exchange& exchange : program.plan.exchanges)
        EXPECT_EQ(exchange.collective, Collective::all_reduce);
}

// Whoever sends most is waited for: a rank at the edge of the image has one neighbour and waits as long as the others.
TEST(SpatialTraining, ACostIsThatOfTheRankThatSendsMost) {
    const Stream stream = CpuStream(1);
    Program program = std::move(describe({.axes = {{"data", 1}, {"spatial", 3}}}).program);
    std::vector<double> forward;
    for (const int rank : {0, 1}) {
        program.plan = make_plan(program.model.graph, program.layout, rank, stream);
        std::int64_t sent = 0, calls = 0;
        for (const Transfers& transfers : transfers_of(program.plan, program.layout))
            if (transfers.collective == Collective::halo && transfers.phase == Phase::forward) {
                sent += transfers.bytes_sent / transfers.runs;
                calls += transfers.calls;
            }
        EXPECT_GT(sent, 0);
        const RankCost cost = cost_of_rank(program.plan, program.layout, machine());
        forward.push_back(cost.phase(Phase::forward).transfers[1]);
        const double halos = 2e-6 * static_cast<double>(calls) + static_cast<double>(sent) / 8e9;
        if (rank == 1) {
            EXPECT_GE(forward.back(), halos); // and the mean's sum
        }
    }
    EXPECT_DOUBLE_EQ(forward[0], forward[1]);
}
