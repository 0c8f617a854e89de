// SPDX-License-Identifier: Apache-2.0
// What a launcher's environment says against the number of ranks that MPI sees.
#include "kernels/error.hpp"
#include "parallel/communication/world.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <string>

using namespace tessera;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

void check(int mpi_size, const std::map<std::string, std::string>& variables) {
    check_launcher(mpi_size, [&](const char* name) -> const char* {
        const auto found = variables.find(name);
        return found == variables.end() ? nullptr : found->second.c_str();
    });
}

} // namespace

TEST(Launcher, RanksThatMpiDoesNotSeeAreRefused) {
    EXPECT_THAT(
        [] {
            check(1, {{"SLURM_PROCID", "3"}, {"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "4"}});
        },
        ThrowsMessage<ConfigError>("srun started 4 tasks, but MPI sees 1: use srun --mpi=pmix"));
    EXPECT_THAT(
        [] {
            check(1, {{"OMPI_COMM_WORLD_SIZE", "2"}});
        },
        ThrowsMessage<ConfigError>(HasSubstr("mpirun started 2 ranks, but MPI sees 1")));
    EXPECT_THAT([] { check(1, {{"PMI_SIZE", "8"}}); }, ThrowsMessage<ConfigError>(HasSubstr("started 8 ranks")));
}

TEST(Launcher, WhatAgreesIsLeftAlone) {
    EXPECT_NO_THROW(check(1, {}));
    EXPECT_NO_THROW(check(4, {{"SLURM_PROCID", "3"}, {"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "4"}}));
    EXPECT_NO_THROW(check(1, {{"SLURM_NTASKS", "4"}}));                        // a shell inside an allocation
    EXPECT_NO_THROW(check(1, {{"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}})); // a batch script
    EXPECT_NO_THROW(check(1, {{"OMPI_COMM_WORLD_SIZE", "1"},                   // mpirun -n 1 inside srun -n 4
                              {"SLURM_PROCID", "3"},
                              {"SLURM_STEP_ID", "0"},
                              {"SLURM_STEP_NUM_TASKS", "4"}}));
}
