// SPDX-License-Identifier: Apache-2.0
// How a run is started: binding for every count of ranks, threads and cores, mpirun's and srun's command lines.
#include "launcher/job.hpp"

#include "kernels/error.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <map>
#include <rapidcheck.h>
#include <sched.h>

namespace tessera {
namespace {

Host host_of(std::vector<int> cores, std::map<std::string, std::string> environment = {}, bool pmix = true) {
    Host host;
    host.cores = std::move(cores);
    host.environment = [environment](const std::string& name) {
        return environment.contains(name) ? environment.at(name) : std::string();
    };
    host.srun_has_pmix = [pmix] { return pmix; };
    return host;
}

std::string line(const Job& job) { return fmt::format("{}", fmt::join(job.command, " ")); }

TEST(Binding, GivesEachRankCoresOfItsOwnWhereThereAreEnough) {
    const bool right = rc::check([] {
        const auto ranks = *rc::gen::inRange<std::int64_t>(1, 100);
        const auto threads = *rc::gen::inRange<std::int64_t>(0, 20);
        const auto cores = *rc::gen::inRange<std::int64_t>(1, 200);
        const Binding binding = choose_binding(ranks, threads, cores);
        RC_ASSERT(binding.threads >= 1);
        RC_ASSERT(threads == 0 || binding.threads == threads);
        RC_ASSERT(binding.bound == (ranks * binding.threads <= cores));
        RC_ASSERT(binding.bound == binding.note().empty());
        if (threads == 0 && ranks <= cores) // one thread more would not fit
            RC_ASSERT(binding.bound && ranks * (binding.threads + 1) > cores);
    });
    EXPECT_TRUE(right);
    EXPECT_EQ(choose_binding(4, 1, 2).note(),
              "4 ranks of 1 thread on 2 cores: ranks are not bound and share the cores");
}

TEST(Binding, FindsCoresThatThisProcessMayRunOn) {
    const std::vector<int> cores = usable_cores();
    ASSERT_FALSE(cores.empty());
    for (std::size_t i = 1; i < cores.size(); ++i)
        EXPECT_NE(cores[i], cores[i - 1]);
    for (const int core : cores) { // the kernel agrees
        cpu_set_t before, one;
        ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
        CPU_ZERO(&one);
        CPU_SET(core, &one);
        EXPECT_EQ(sched_setaffinity(0, sizeof one, &one), 0) << core;
        ASSERT_EQ(sched_setaffinity(0, sizeof before, &before), 0);
    }
}

TEST(Job, MpirunBindsRanksToCores) {
    const Host host = host_of({0, 2, 4, 6});
    const Job job = plan_job({"/opt/tessera", "train", "a b.toml"}, 2, 0, host);
    EXPECT_EQ(line(job), "mpirun -n 2 --map-by slot:PE=2 --bind-to core /opt/tessera train a b.toml");
    EXPECT_TRUE(job.notes.empty());
    EXPECT_EQ(job_text(job, host),
              "command: mpirun -n 2 --map-by slot:PE=2 --bind-to core /opt/tessera train 'a b.toml'\n"
              "environment: OMPI_MCA_btl=self,vader OMP_NUM_THREADS=2\n"
              "rank 0: cores 0,2\n"
              "rank 1: cores 4,6\n");
}

TEST(Job, MpirunSharesCoresWhenThereAreTooFewAndSaysSo) {
    const Host host = host_of({0, 1});
    const Job job = plan_job({"p"}, 4, 0, host);
    EXPECT_EQ(line(job), "mpirun -n 4 --bind-to none --oversubscribe p");
    EXPECT_EQ(job.environment.at("OMPI_MCA_mpi_yield_when_idle"), "1");
    EXPECT_EQ(job.environment.at("OMP_NUM_THREADS"), "1");
    ASSERT_EQ(job.notes.size(), 1u);
    EXPECT_EQ(job.notes[0], "4 ranks of 1 thread on 2 cores: ranks are not bound and share the cores");
    EXPECT_NE(job_text(job, host).find("ranks: 4, not bound to cores\n"), std::string::npos);
}

TEST(Job, ThreadsComeFromTheLineThenTheEnvironmentThenTheCores) {
    const std::vector<int> cores{0, 1, 2, 3, 4, 5, 6, 7};
    EXPECT_EQ(plan_job({"p"}, 2, 3, host_of(cores, {{"OMP_NUM_THREADS", "1"}})).binding.threads, 3);
    EXPECT_EQ(plan_job({"p"}, 2, 0, host_of(cores, {{"OMP_NUM_THREADS", "1"}})).binding.threads, 1);
    EXPECT_EQ(plan_job({"p"}, 2, 0, host_of(cores)).binding.threads, 4);
    EXPECT_EQ(plan_job({"p"}, 0, 0, host_of(cores)).binding.ranks, 1);
    EXPECT_THROW(plan_job({"p"}, 2, 0, host_of(cores, {{"OMP_NUM_THREADS", "many"}})), ConfigError);
}

TEST(Job, TellsOpenMpiAboutRootAndTransport) {
    Host host = host_of({0, 1}, {{"OMPI_MCA_btl", "self,tcp"}});
    EXPECT_EQ(plan_job({"p"}, 1, 1, host).environment, (std::map<std::string, std::string>{{"OMP_NUM_THREADS", "1"}}));
    host.root = true;
    const Job job = plan_job({"p"}, 1, 1, host);
    EXPECT_EQ(job.environment.at("OMPI_ALLOW_RUN_AS_ROOT"), "1");
    EXPECT_EQ(job.environment.at("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"), "1");
    EXPECT_FALSE(job.environment.contains("OMPI_MCA_btl")); // what a person chose stays
}

TEST(Job, SrunStartsTheRanksInsideAnAllocation) {
    std::map<std::string, std::string> environment{
        {"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "4"}, {"SLURM_JOB_NUM_NODES", "2"}, {"SLURM_CPUS_PER_TASK", "3"}};
    const std::vector<int> cores{0, 1, 2, 3, 4, 5, 6, 7};
    const Job job = plan_job({"p", "train"}, 0, 0, host_of(cores, environment));
    EXPECT_EQ(line(job), "srun --mpi=pmix --kill-on-bad-exit=1 --input=none --ntasks=4 --cpus-per-task=3 "
                         "--cpu-bind=cores p train");
    EXPECT_TRUE(job.notes.empty());
    EXPECT_EQ(job.environment.at("OMP_NUM_THREADS"), "3");
    EXPECT_NE(job_text(job, host_of(cores)).find("ranks: 4, placed by Slurm\n"), std::string::npos);

    const Job many = plan_job({"p"}, 99, 1, host_of(cores, environment));
    EXPECT_EQ(line(many),
              "srun --mpi=pmix --kill-on-bad-exit=1 --input=none --ntasks=99 --overcommit --cpu-bind=none p");
    EXPECT_EQ(many.notes.size(), 1u);

    const Job fallback = plan_job({"p"}, 4, 2, host_of(cores, environment, false));
    EXPECT_EQ(fallback.command[0], "mpirun");
    EXPECT_FALSE(fallback.environment.contains("OMPI_MCA_btl")); // there is another host
    ASSERT_EQ(fallback.notes.size(), 1u);
    EXPECT_EQ(fallback.notes[0], "srun has no pmix, which Open MPI needs: starting with mpirun instead");

    environment["SLURM_STEP_ID"] = "0"; // inside a step, whose cores are this process's own
    EXPECT_EQ(plan_job({"p"}, 4, 2, host_of(cores, environment)).command[0], "mpirun");
    environment["SLURM_STEP_ID"] = "4294967290"; // salloc's interactive step
    EXPECT_EQ(plan_job({"p"}, 4, 2, host_of(cores, environment)).command[0], "srun");
}

} // namespace
} // namespace tessera
