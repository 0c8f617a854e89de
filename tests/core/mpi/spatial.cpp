// SPDX-License-Identifier: Apache-2.0
// The network of strips on processes, in shared memory and by messages, and on the stages of a pipeline, against one
// rank; and what the communicators count of the halos against the plan.
#include "tests/core/image_network.hpp"
#include "tests/support/mpi_main.hpp"

using namespace tessera;
using namespace tessera::images;

namespace {

void expect_trains_as_one_rank(Settings settings) {
    SCOPED_TRACE(settings.text());
    const int rank = test::world().rank();
    Stream stream = CpuStream(1);
    Groups groups(test::world(), Mesh(settings.axes), stream, settings.one_host);
    const ImageRecord record = train_rank(settings, rank, groups);
    settings.axes = {{"data", 1}};
    Groups alone(Mesh(settings.axes));
    const ImageRecord one = train_rank(settings, 0, alone);
    const double allowed = tolerance(DType::f32, Kind::training).relative;
    EXPECT_LE(largest_difference(record.losses, one.losses), allowed);
    EXPECT_LE(largest_difference(record.norms, one.norms), 10 * allowed);
    EXPECT_EQ(record.halo_bytes, record.planned_halo_bytes);
}

} // namespace

TEST(SpatialRanks, TrainAsOneRankDoes) {
    const int ranks = test::world().size();
    for (const bool one_host : {true, false})
        expect_trains_as_one_rank({.axes = {{"data", 1}, {"spatial", ranks}}, .one_host = one_host});
}

TEST(SpatialRanks, StagesOfAPipelineTrainAsOneRankDoes) {
    const int ranks = test::world().size();
    if (ranks % 2 != 0) GTEST_SKIP() << "two stages want an even number of ranks";
    expect_trains_as_one_rank({.axes = {{"pipeline", 2}, {"data", 1}, {"spatial", ranks / 2}}});
}
