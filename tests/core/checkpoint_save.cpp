// SPDX-License-Identifier: Apache-2.0
// Saves that fail or are killed: every rank is told the same, and the earlier checkpoint is as it was.
#include "core/checkpoint/checkpoint.hpp"
#include "kernels/error.hpp"
#include "tests/core/checkpoint_team.hpp"

#include <csignal>
#include <cstdlib>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace tessera;
namespace fs = std::filesystem;

TEST(CheckpointSave, BoxesThatDoNotCoverATensorOnceAreNotSaved) {
    const ScratchFolder scratch;
    const std::string earlier = save_small(scratch.path(), 1);
    std::vector<float> data(24);
    const auto save = [&](std::int64_t rows_of_rank_1, const Shape& whole_of_rank_1, const std::string& name) {
        return run_team(2, [&](const Team& team) {
            const Shape box{team.rank == 0 ? 2 : rows_of_rank_1, 6};
            save_checkpoint(team, scratch.path(),
                            {2,
                             {},
                             {{name,
                               team.rank == 0 ? Shape{4, 6} : whole_of_rank_1,
                               DType::f32,
                               {team.rank == 0 ? 0 : 4 - rows_of_rank_1, 0},
                               {data.data(), box, DType::f32}}}});
        });
    };
    const auto expect = [&](const std::vector<std::string>& failures, const std::string& reason) {
        EXPECT_EQ(failures[0], failures[1]);
        EXPECT_TRUE(contains(failures[0], "step-00000002 was not saved: rank ")) << failures[0];
        EXPECT_TRUE(contains(failures[0], reason)) << failures[0];
        EXPECT_EQ(newest_checkpoint(scratch.path()), earlier);
        EXPECT_EQ(std::distance(fs::directory_iterator(scratch.path()), {}), 1);
    };
    expect(save(1, {4, 6}, "x"), "rank 0: tensor 'x' (4, 6): 6 of its 24 elements are in no file");
    expect(save(3, {4, 6}, "x"), "overlap");
    expect(save(0, {4, 6}, "x"), "12 of its 24 elements are in no file");
    expect(save(2, {4, 7}, "x"), "tensor 'x' is (4, 6) f32 on one rank and (4, 7) f32 on rank 1");
    expect(save(2, {3, 6}, "x"), "rank 1: tensor 'x' (3, 6) is given the box (2, 6) at (2, 0)");
    expect(save(2, {4, 6}, "../x"), "rank 0: tensor '../x' has a name that cannot be saved");
    expect(save(2, {4, 6}, "metadata"), "has the name of the metadata");
}

TEST(CheckpointSave, AFolderThatCannotBeMadeIsSaidOnEveryRank) {
    const ScratchFolder scratch;
    write_file(scratch.path("file"), "");
    const std::vector<std::string> failures = run_team(3, [&](const Team& team) {
        try {
            save_checkpoint(team, scratch.path("file/below"), {7, {}, {}});
        } catch (const SystemError& error) {
            throw;
        } catch (...) {
            throw InternalError("another kind of error");
        }
    });
    EXPECT_EQ(failures, std::vector<std::string>(3, "checkpoint " + scratch.path("file/below/step-00000007") +
                                                        " was not saved: rank 0: cannot create " +
                                                        scratch.path("file/below") + ": Not a directory"));
}

// A limit on the size of files stands for a disk that is full: the write fails, in libhdf5, on one rank.
TEST(CheckpointSave, AWriteThatFailsOnOneRankLeavesTheEarlierCheckpoint) {
    const ScratchFolder scratch;
    const std::string earlier = save_small(scratch.path(), 1);
    const auto open_files = [] { return std::distance(fs::directory_iterator("/proc/self/fd"), {}); };
    std::vector<float> data(1 << 20);
    const auto save = [&](std::int64_t step, std::int64_t rows_of_rank_1) {
        return run_team(2, [&](const Team& team) {
            const std::int64_t rows = team.rank == 0 ? 1 : rows_of_rank_1;
            save_checkpoint(team, scratch.path(),
                            {step,
                             {},
                             {{"x",
                               {1 + rows_of_rank_1, 1024},
                               DType::f32,
                               {team.rank, 0},
                               {data.data(), {rows, 1024}, DType::f32}}}});
        });
    };
    const auto files_before = open_files();
    rlimit limit = {};
    getrlimit(RLIMIT_FSIZE, &limit);
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    for (const std::int64_t bytes : {16 << 10, 100, 256 << 10}) {
        const rlimit small{static_cast<rlim_t>(bytes), limit.rlim_max};
        setrlimit(RLIMIT_FSIZE, &small);
        const std::vector<std::string> failures = save(2, 1000); // 4 MB on rank 1, 4 KB on rank 0
        setrlimit(RLIMIT_FSIZE, &limit);
        EXPECT_EQ(failures[0], failures[1]);
        EXPECT_TRUE(contains(failures[0], bytes == 100 ? "rank 0: " : "rank 1: ")) << failures[0];
        EXPECT_TRUE(contains(failures[0], "rank-0000")) << failures[0];
        EXPECT_TRUE(contains(failures[0], "File too large")) << failures[0];
        EXPECT_EQ(newest_checkpoint(scratch.path()), earlier);
        EXPECT_EQ(std::distance(fs::directory_iterator(scratch.path()), {}), 1);
    }
    std::signal(SIGXFSZ, handler);
    EXPECT_EQ(open_files(), files_before);
    EXPECT_EQ(save(2, 1000), std::vector<std::string>(2)); // the library goes on working
    EXPECT_EQ(complaint(scratch.path("step-00000002")), "");
    EXPECT_EQ(complaint(earlier), "");
}

// kill -9 at any instant, also while the checkpoint of the same step is being replaced: there is always one, and whole.
TEST(CheckpointSave, AKilledSaveLeavesAWholeCheckpoint) {
    const ScratchFolder scratch;
    const Shape whole{40000};
    const auto save = [&](std::int64_t step, std::int32_t value) {
        std::vector<std::int32_t> data(40000, value);
        save_checkpoint(team_of_one(), scratch.path(),
                        {step,
                         {{"value", std::to_string(value)}},
                         {{"x", whole, DType::i32, {0}, {data.data(), whole, DType::i32}}}});
    };
    save(0, 0);
    const auto folder_of_newest = [&] { return newest_checkpoint(scratch.path(), nullptr); };
    std::string folder = folder_of_newest();
    std::int64_t newest = 0, replaced_in_time = 0;
    for (int attempt = 0; attempt < 30; ++attempt) {
        const pid_t child = fork();
        if (child == 0) {
            for (std::int32_t value = 1;; ++value) // each step three times
                save(newest + 1 + value / 3, value);
        }
        usleep(static_cast<useconds_t>(500 + attempt * 977));
        while (attempt == 29 && folder_of_newest() == folder) // on a busy machine no save ended so soon
            usleep(1000);
        kill(child, SIGKILL);
        waitpid(child, nullptr, 0);
        std::vector<std::string> skipped;
        folder = newest_checkpoint(scratch.path(), &skipped);
        ASSERT_NE(folder, "");
        ASSERT_EQ(skipped, std::vector<std::string>()); // what is visible is whole
        const Checkpoint checkpoint(folder);
        ASSERT_GE(checkpoint.step(), newest);
        replaced_in_time += checkpoint.step() > newest;
        newest = checkpoint.step();
        std::vector<std::int32_t> found(40000);
        checkpoint.read("x", {0}, {found.data(), whole, DType::i32});
        ASSERT_EQ(found, std::vector<std::int32_t>(40000, std::stoi(checkpoint.metadata().at("value"))));
    }
    EXPECT_GT(replaced_in_time, 0); // or nothing was tried
}

// Without H5dont_atexit, libhdf5 1.10 dies of a segmentation fault when a process ends after a write has failed.
TEST(CheckpointSave, AProcessEndsWellAfterAWriteThatFailed) {
    const ScratchFolder scratch;
    const pid_t child = fork();
    if (child == 0) {
        std::signal(SIGXFSZ, SIG_IGN);
        const rlimit small{16 << 10, 16 << 10};
        setrlimit(RLIMIT_FSIZE, &small);
        std::vector<float> data(1 << 18);
        try {
            save_checkpoint(team_of_one(), scratch.path(),
                            {1, {}, {{"x", {1 << 18}, DType::f32, {0}, {data.data(), {1 << 18}, DType::f32}}}});
        } catch (const SystemError&) {
            std::exit(75);
        }
        std::exit(1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 75) << status;
}
