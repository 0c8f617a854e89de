// SPDX-License-Identifier: Apache-2.0
// Which variables a run tells of.
#include "launcher/job/environment.hpp"

#include <gtest/gtest.h>

namespace tessera {
namespace {

TEST(Environment, TellsWhatPassesThrough) {
    EXPECT_EQ(environment_text({}), "");
    EXPECT_EQ(environment_text({"PATH=/bin", "OMP_NUM_THREADS=2", "NCCL_DEBUG=INFO", "OMPI_MCA_btl=self,vader",
                                "UCX_TLS=rc", "CUDA_VISIBLE_DEVICES=0", "SLURM_JOB_ID=7"}),
              "CUDA_VISIBLE_DEVICES=0 NCCL_DEBUG=INFO OMPI_MCA_btl=self,vader OMP_NUM_THREADS=2 UCX_TLS=rc");
}

TEST(Environment, LeavesOutSecretsAndWhatMpirunSays) {
    EXPECT_EQ(environment_text({"NCCL_API_KEY=1", "OMP_TOKEN=2", "UCX_PASSWORD=3", "NCCL_MY_SECRET=4",
                                "OMPI_MCA_ess=env", "OMPI_MCA_orte_jobid=5", "AWS_SECRET_ACCESS_KEY=6"}),
              "");
}

TEST(Environment, ShowsNoControlCharacters) {
    EXPECT_EQ(environment_text({"NCCL_DEBUG=\x1b[2J"}).find('\x1b'), std::string::npos);
}

} // namespace
} // namespace tessera
