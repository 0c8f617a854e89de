// SPDX-License-Identifier: Apache-2.0
// How a run is started: mpirun's and srun's command lines, on one host and on many, and what goes to other hosts.
#include "launcher/job/job.hpp"

#include "kernels/error.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <map>

namespace tessera {
namespace {

Surroundings host_of(std::vector<int> cores, std::map<std::string, std::string> environment = {}, bool pmix = true) {
    Surroundings here;
    here.host = "h1";
    for (const int core : cores)
        here.shape.cores.push_back({core, 0});
    here.environment = [environment](const std::string& name) {
        return environment.contains(name) ? environment.at(name) : std::string();
    };
    for (const auto& [name, value] : environment)
        here.variables.push_back(name);
    here.srun_has_pmix = [pmix] { return pmix; };
    return here;
}

const std::string id = "tessera-0123456789abcdef.1";
const std::string rank_words = "rank --job " + id + " ";

Job plan(const std::vector<std::string>& program, std::int64_t ranks, std::int64_t threads, const Surroundings& here) {
    Wish wish;
    wish.ranks = ranks;
    wish.threads = threads;
    return plan_job(program, wish, here, id);
}

std::string line(const Job& job) { return fmt::format("{}", fmt::join(job.command, " ")); }

TEST(Job, RanksBindThemselvesToCores) {
    const Surroundings here = host_of({0, 2, 4, 6});
    const Job job = plan({"/opt/tessera", "train", "a b.toml"}, 2, 0, here);
    EXPECT_EQ(line(job), "mpirun -n 2 --bind-to none /opt/tessera " + rank_words + "--bind 2 -- train a b.toml");
    EXPECT_TRUE(job.notes.empty());
    EXPECT_EQ(job_text(job, here),
              "command: mpirun -n 2 --bind-to none /opt/tessera " + rank_words +
                  "--bind 2 -- train 'a b.toml'\n"
                  "environment: CUDA_DEVICE_ORDER=PCI_BUS_ID OMPI_MCA_btl=self,vader "
                  "OMPI_MCA_btl_vader_backing_directory=/dev/shm/" +
                  id + " OMPI_MCA_orte_tmpdir_base=/tmp/" + id + " OMPI_MCA_osc_rdma_backing_directory=/dev/shm/" + id +
                  " OMPI_MCA_osc_sm_backing_directory=/dev/shm/" + id + " OMP_NUM_THREADS=2 TESSERA_JOB=" + id +
                  "\n"
                  "rank 0 on h1: cores 0,2 of NUMA node 0\n"
                  "rank 1 on h1: cores 4,6 of NUMA node 0\n");
}

TEST(Job, RanksShareCoresWhenThereAreTooFewAndSaySo) {
    const Surroundings here = host_of({0, 1});
    const Job job = plan({"p"}, 4, 0, here);
    EXPECT_EQ(line(job), "mpirun -n 4 --bind-to none --oversubscribe p " + rank_words + "--");
    EXPECT_EQ(job.environment.at("OMPI_MCA_mpi_yield_when_idle"), "1");
    EXPECT_EQ(job.environment.at("OMP_NUM_THREADS"), "1");
    ASSERT_EQ(job.notes.size(), 1u);
    EXPECT_EQ(job.notes[0], "4 ranks of 1 thread on 2 cores: ranks are not bound and share the cores");
    EXPECT_NE(job_text(job, here).find("ranks: 4, not bound to cores\nrank 0 on h1: any core\n"), std::string::npos);
}

TEST(Job, ThreadsComeFromTheLineThenTheEnvironmentThenTheCores) {
    const std::vector<int> cores{0, 1, 2, 3, 4, 5, 6, 7};
    EXPECT_EQ(plan({"p"}, 2, 3, host_of(cores, {{"OMP_NUM_THREADS", "1"}})).threads, 3);
    EXPECT_EQ(plan({"p"}, 2, 0, host_of(cores, {{"OMP_NUM_THREADS", "1"}})).threads, 1);
    EXPECT_EQ(plan({"p"}, 2, 0, host_of(cores)).threads, 4);
    EXPECT_EQ(plan({"p"}, 0, 0, host_of(cores)).ranks, 1);
    EXPECT_THROW(plan({"p"}, 2, 0, host_of(cores, {{"OMP_NUM_THREADS", "many"}})), ConfigError);
}

TEST(Job, TellsOpenMpiAboutRootAndTransport) {
    Surroundings here = host_of({0, 1}, {{"OMPI_MCA_btl", "self,tcp"}});
    EXPECT_FALSE(plan({"p"}, 1, 1, here).environment.contains("OMPI_ALLOW_RUN_AS_ROOT"));
    here.root = true;
    const Job job = plan({"p"}, 1, 1, here);
    EXPECT_EQ(job.environment.at("OMPI_ALLOW_RUN_AS_ROOT"), "1");
    EXPECT_EQ(job.environment.at("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"), "1");
    EXPECT_FALSE(job.environment.contains("OMPI_MCA_btl")); // what a person chose stays
}

TEST(Job, ReachesOtherHosts) {
    Surroundings here = host_of({0, 1}, {{"NCCL_DEBUG", "INFO"},
                                         {"NCCL_TOKEN", "x"},
                                         {"OMPI_MCA_pml", "ob1"},
                                         {"HOME", "/root"},
                                         {"OMP_NUM_THREADS", "1"}});
    here.others["b"].cores = {{0, 0}, {1, 1}, {2, 1}};
    Wish wish;
    wish.hosts = {{"h1", 2}, {"b", 2}, {"c", 4}};
    wish.ranks = 4;
    wish.remote_shell = "rsh -q";
    wish.interface = "eth0";
    wish.output = "/runs/x";
    const Job job = plan_job({"p", "train"}, wish, here, id);
    EXPECT_EQ(line(job), "mpirun -n 4 --bind-to none --host h1:2,b:2 --map-by slot --mca plm_rsh_agent rsh -q --mca "
                         "plm_rsh_no_tree_spawn 1 -x CUDA_DEVICE_ORDER -x NCCL_DEBUG -x NCCL_SOCKET_IFNAME "
                         "-x OMP_NUM_THREADS -x TESSERA_JOB p " +
                             rank_words + "--bind 1 --output /runs/x -- train");
    EXPECT_EQ(job.environment.at("OMPI_MCA_btl"), "self,vader,tcp");
    EXPECT_EQ(job.environment.at("OMPI_MCA_btl_tcp_if_include"), "eth0");
    EXPECT_EQ(job.environment.at("OMPI_MCA_oob_tcp_keepalive_time"), "5");
    EXPECT_EQ(job.environment.at("NCCL_SOCKET_IFNAME"), "eth0");
    EXPECT_EQ(job.passed_on, (std::vector<std::string>{"NCCL_DEBUG", "OMPI_MCA_pml"}));
    EXPECT_EQ(job.notes, std::vector<std::string>{"NCCL_TOKEN is not passed on: by its name it is a secret"});
    EXPECT_EQ(job.host_of(1), "h1");
    EXPECT_EQ(job.host_of(2), "b");
    EXPECT_EQ(job.map,
              (std::vector<std::string>{"rank 0 on h1: core 0 of NUMA node 0", "rank 1 on h1: core 1 of NUMA node 0",
                                        "rank 2 on b: core 0 of NUMA node 0", "rank 3 on b: core 1 of NUMA node 1"}));
    EXPECT_NE(job_text(job, here).find("\npassed on: NCCL_DEBUG=INFO OMPI_MCA_pml=ob1\n"), std::string::npos);
    EXPECT_EQ(job_text(job, here).find("NCCL_TOKEN"), std::string::npos);

    wish.ranks = 0; // as many as there is room for; c is like this host, and has too few cores
    const Job all = plan_job({"p"}, wish, here, id);
    EXPECT_EQ(all.ranks, 8);
    EXPECT_FALSE(all.bound);
    EXPECT_EQ(all.notes[0], "4 ranks of 1 thread on 2 cores of c: ranks are not bound and share the cores");
    wish.ranks = 9;
    EXPECT_THROW(plan_job({"p"}, wish, here, id), ConfigError);
}

TEST(Job, KnowsASecretByItsName) {
    for (const char* name : {"NCCL_TOKEN", "MY_API_KEY", "AWS_SECRET_ACCESS_KEY", "db_password", "TESSERA_AUTH"})
        EXPECT_TRUE(looks_like_a_secret(name)) << name;
    for (const char* name : {"NCCL_DEBUG", "OMP_NUM_THREADS", "UCX_TLS", "OMPI_MCA_btl", "NCCL_KEYBOARD"})
        EXPECT_FALSE(looks_like_a_secret(name)) << name;
}

TEST(Job, SrunStartsTheRanksInsideAnAllocation) {
    std::map<std::string, std::string> environment{
        {"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "4"}, {"SLURM_JOB_NUM_NODES", "2"}, {"SLURM_CPUS_PER_TASK", "3"}};
    const std::vector<int> cores{0, 1, 2, 3, 4, 5, 6, 7};
    const Job job = plan({"p", "train"}, 0, 0, host_of(cores, environment));
    EXPECT_EQ(line(job), "srun --mpi=pmix --kill-on-bad-exit=1 --input=none --ntasks=4 --cpus-per-task=3 "
                         "--cpu-bind=cores p " +
                             rank_words + "-- train");
    EXPECT_TRUE(job.notes.empty());
    EXPECT_EQ(job.environment.at("OMP_NUM_THREADS"), "3");
    EXPECT_NE(job_text(job, host_of(cores)).find("ranks: 4, placed by Slurm\n"), std::string::npos);

    const Job many = plan({"p"}, 99, 1, host_of(cores, environment));
    EXPECT_EQ(line(many),
              "srun --mpi=pmix --kill-on-bad-exit=1 --input=none --ntasks=99 --overcommit --cpu-bind=none p " +
                  rank_words + "--");
    EXPECT_EQ(many.notes.size(), 1u);

    const Job fallback = plan({"p"}, 4, 2, host_of(cores, environment, false));
    EXPECT_EQ(fallback.command[0], "mpirun");
    EXPECT_FALSE(fallback.environment.contains("OMPI_MCA_btl")); // there is another host
    ASSERT_EQ(fallback.notes.size(), 1u);
    EXPECT_EQ(fallback.notes[0], "srun has no pmix, which Open MPI needs: starting with mpirun instead");
    EXPECT_NE(job_text(fallback, host_of(cores)).find("ranks: 4, placed by mpirun on Slurm's nodes\n"),
              std::string::npos);

    environment["SLURM_STEP_ID"] = "0"; // inside a step, whose cores are this process's own
    EXPECT_EQ(plan({"p"}, 4, 2, host_of(cores, environment)).command[0], "mpirun");
    environment["SLURM_STEP_ID"] = "4294967290"; // salloc's interactive step
    EXPECT_EQ(plan({"p"}, 4, 2, host_of(cores, environment)).command[0], "srun");
}

} // namespace
} // namespace tessera
