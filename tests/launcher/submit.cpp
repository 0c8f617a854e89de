// SPDX-License-Identifier: Apache-2.0
// The script of a job, read and run with other programs in the place of tessera and scontrol; sweeps, time limits, and
// what Slurm tells of jobs.
#include "launcher/slurm/submit_script.hpp"

#include "core/exit_codes.hpp"
#include "kernels/error.hpp"
#include "launcher/slurm/slurm_jobs.hpp"

#include <cstdlib>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sstream>
#include <sys/wait.h>
#include <unistd.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

class Folder {
public:
    Folder() : path_(fs::temp_directory_path() / fmt::format("tessera-submit-{}", ::getpid())) {
        fs::remove_all(path_);
        fs::create_directories(path_);
    }
    ~Folder() { fs::remove_all(path_); }
    std::string operator/(const std::string& name) const { return (path_ / name).string(); }

private:
    fs::path path_;
};

void write(const std::string& path, const std::string& text) {
    std::ofstream(path) << text;
    fs::permissions(path, fs::perms::owner_all);
}

std::string read(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
}

Submission small_job(const std::string& program = "/opt/tessera") {
    Submission job;
    job.program = program;
    job.said = {"submit", "gpt.toml"};
    job.config = "gpt.toml";
    job.folder = "runs/gpt";
    job.job_name = "gpt";
    return job;
}

struct Ran {
    int code;
    bool requeued;
    std::string words; // that tessera got, one a line
};

// Runs the script where `tessera` is a shell script that keeps its words and goes on with `body`.
Ran run(const Submission& job, const std::string& body, const std::string& variables = "",
        const std::string& around = "{}") {
    const Folder folder;
    fs::create_directories(folder / "runs/gpt/checkpoints/step-00000010"); // of before
    Submission changed = job;
    changed.program = folder / "te ssera";
    write(changed.program, "#!/bin/bash\nprintf '%s\\n' \"$@\" >" + (folder / "words") + "\n" + body + "\n");
    write(folder / "scontrol", "#!/bin/bash\necho \"$@\" >" + (folder / "requeued") + "\n");
    write(folder / "script", submit_script(changed));
    const std::string line = fmt::format(
        "cd {0} && export PATH={0}:$PATH SLURM_JOB_ID=7 SLURM_JOB_NUM_NODES=2 SLURM_JOB_NODELIST=n[1-2] {1}; {2}",
        folder / "", variables, fmt::format(fmt::runtime(around), "bash script >out 2>&1"));
    const int status = std::system(("bash -c '" + line + "'").c_str());
    EXPECT_TRUE(WIFEXITED(status));
    const std::string requeued = fs::exists(folder / "requeued") ? read(folder / "requeued") : "";
    EXPECT_TRUE(requeued.empty() || requeued == "requeue 7\n") << requeued;
    return {WEXITSTATUS(status), !requeued.empty(), read(folder / "words")};
}

TEST(SubmitScript, AsksSlurmForWhatWasSaid) {
    Submission job = small_job();
    job.least_nodes = 2;
    job.most_nodes = 4;
    job.ranks_per_node = 8;
    job.cpus_per_rank = 6;
    job.gpus_per_node = 8;
    job.time = "1-12:00:00";
    job.partition = "gpu";
    job.account = "physics";
    job.qos = "long";
    job.signal_before = 300;
    job.options = {"--mem=0"};
    const std::string text = submit_script(job);
    const std::string expected = R"x(#!/bin/bash
# tessera submit gpt.toml
#SBATCH --job-name=gpt
#SBATCH --nodes=2-4
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=6
#SBATCH --gpus-per-node=8
#SBATCH --time=1-12:00:00
#SBATCH --partition=gpu
#SBATCH --account=physics
#SBATCH --qos=long
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output="runs/gpt/job.log"
#SBATCH --mem=0

set -u
tessera=/opt/tessera
options=(-n "$((SLURM_JOB_NUM_NODES * 8))" --threads 6 --grace 300)
words=(gpt.toml)
)x";
    EXPECT_EQ(text.substr(0, expected.size()), expected);
}

TEST(SubmitScript, GivesEveryWordToTheRunAsItIs) {
    Submission job = small_job();
    job.config = "my config.toml";
    job.overrides = {"run.name=a;touch x", "data.files=[\"$(id)\", '`id`']", "run.folder=it's", "#", "model.type=\\"};
    job.said = job.overrides;
    job.ranks_per_node = 3;
    const Ran ran = run(job, "exit 0");
    EXPECT_EQ(ran.words, "launch\n-n\n6\n--threads\n1\n--grace\n120\nmy config.toml\nrun.name=a;touch x\n"
                         "data.files=[\"$(id)\", '`id`']\nrun.folder=it's\n#\nmodel.type=\\\n");
    EXPECT_EQ(ran.code, 0);
}

TEST(SubmitScript, RefusesWhatCannotStandInIt) {
    const auto refused = [](void (*change)(Submission&), const char* why) {
        Submission job = small_job();
        change(job);
        EXPECT_THAT([&] { submit_script(job); }, ThrowsMessage<ConfigError>(HasSubstr(why)));
    };
    refused([](Submission& job) { job.overrides = {"run.name=a\nrm -rf x"}; },
            "'run.name=a': a batch script cannot hold");
    refused([](Submission& job) { job.said = {"submit", "x\ny"}; }, "a line break");
    refused([](Submission& job) { job.config = "a\r.toml"; }, "a line break or control character");
    refused([](Submission& job) { job.folder = "runs\n/x"; }, "run.folder: a batch script cannot");
    refused([](Submission& job) { job.folder = "runs/a\"b"; }, "run.folder = 'runs/a\"b': ");
    refused([](Submission& job) { job.job_name = "my run"; }, "--job-name 'my run': expected letters, digits");
    refused([](Submission& job) { job.partition = "a;b"; }, "--partition 'a;b'");
    refused([](Submission& job) { job.account = "$(id)"; }, "--account '$(id)'");
    refused([](Submission& job) { job.qos = "#"; }, "--qos '#'");
    refused([](Submission& job) { job.options = {"--mem=0\ntouch x"}; }, "--sbatch-option: a batch script");
    refused([](Submission& job) { job.options = {"mem=0"}; }, "--sbatch-option 'mem=0': expected a whole option");
}

TEST(SubmitScript, GoesBackToTheQueueByTheCodeOfTheRun) {
    struct Case {
        int code;
        bool again;
    };
    using namespace exit_code;
    for (const auto& [code, again] : {Case{done, false},
                                      {failure, false},
                                      {usage, false},
                                      {data, false},
                                      {lost, true},
                                      {diverged, false},
                                      {run_again, true},
                                      {interrupted, false},
                                      {137, true}}) {
        const Ran ran = run(small_job(), fmt::format("exit {}", code));
        EXPECT_EQ(ran.requeued, again) << code;
        EXPECT_EQ(ran.code, code);
    }
}

TEST(SubmitScript, LimitsTheStartsOfAJobThatLosesRanks) {
    Submission job = small_job();
    job.most_starts = 3;
    EXPECT_TRUE(run(job, "exit 4", "SLURM_RESTART_COUNT=1").requeued);
    EXPECT_FALSE(run(job, "exit 4", "SLURM_RESTART_COUNT=2").requeued);
    EXPECT_TRUE(run(job, "exit 75", "SLURM_RESTART_COUNT=200").requeued) << "a run that goes on is not limited";
    job.chained = true;
    EXPECT_FALSE(run(job, "exit 75").requeued);
    EXPECT_THAT(submit_script(job), HasSubstr("#SBATCH --no-requeue\n"));
    EXPECT_THAT(submit_script(job), HasSubstr("#SBATCH --dependency=singleton\n"));
}

TEST(SubmitScript, BeginsElsewhereOnce) {
    Submission job = small_job();
    job.overrides = {"checkpoint.resume=never"};
    job.begins_elsewhere = true;
    const std::string saves = "mkdir -p runs/gpt/checkpoints/step-00000020";
    // Twice in one folder: what the second start is told depends on whether the first has saved.
    const std::string twice = "{}; cp words first; touch -d \"1 minute ago\" runs/gpt/job.begin; "
                              "SLURM_RESTART_COUNT=1 bash script >out 2>&1";
    EXPECT_THAT(run(job, saves, "", "{}; :").words, testing::EndsWith("checkpoint.resume=never\n"));
    EXPECT_THAT(run(job, saves, "", twice).words, testing::EndsWith("never\ncheckpoint.resume=auto\n"));
    EXPECT_THAT(run(job, "touch -d \"2 minutes ago\" runs/gpt/checkpoints/*", "", twice).words,
                testing::EndsWith("checkpoint.resume=never\n"));
    job.chained = true;
    EXPECT_THAT(run(job, saves, "", twice).words, testing::EndsWith("checkpoint.resume=auto\n"));
    EXPECT_THAT(run(job, saves, "", "{}; touch -d \"1 minute ago\" runs/gpt/job.begin; bash script 2 >out").words,
                testing::EndsWith("checkpoint.resume=auto\n"));
}

// Sends signals to the script once the run has begun; the run needs a while to save.
TEST(SubmitScript, HandsSignalsOnAndWaits) {
    const std::string saves = "trap \"sleep 0.3; exit 75\" USR1; trap \"touch ready.2\" USR2; touch ready; "
                              "while :; do sleep 0.02; done";
    const auto when_ready = [](const std::string& act) {
        return "{} & script=$!; until [ -e ready ]; do sleep 0.02; done; " + act + "; wait $script";
    };
    for (const char* signal : {"USR1", "TERM"}) {
        const Ran ran = run(small_job(), saves, "", when_ready(fmt::format("kill -{} $script", signal)));
        EXPECT_EQ(ran.code, 75) << signal;
        EXPECT_TRUE(ran.requeued) << signal;
    }
    const Ran twice = run(small_job(), saves, "", when_ready("kill -USR1 $script; sleep 0.1; kill -TERM $script"));
    EXPECT_EQ(twice.code, 75);
    const Ran goes_on = run(small_job(), saves, "",
                            when_ready("kill -USR2 $script; until [ -e ready.2 ]; do sleep 0.02; done; "
                                       "kill -USR1 $script"));
    EXPECT_EQ(goes_on.code, 75);
    const Ran killed = run(small_job(), "touch ready; exec sleep 20", "", when_ready("kill -USR1 $script"));
    EXPECT_EQ(killed.code, 128 + SIGUSR1) << "a run that could not save yet";
    EXPECT_TRUE(killed.requeued);
}

TEST(SubmitScript, GivesEachTaskOfASweepItsCombinationAndFolder) {
    Submission job = small_job();
    job.folder = "runs/50% of it";
    job.sweep = combinations({"optimizer.lr=1e-3,1e-4", "run.name=a b,$(id)"});
    job.at_once = 2;
    const std::string text = submit_script(job);
    EXPECT_THAT(text, HasSubstr("#SBATCH --array=0-3%2\n"));
    EXPECT_THAT(text, HasSubstr("#SBATCH --output=\"runs/50%% of it/%a/job.log\"\n"));
    const char* const expected[] = {"1e-3\nrun.name=a b", "1e-3\nrun.name=$(id)", "1e-4\nrun.name=a b",
                                    "1e-4\nrun.name=$(id)"};
    for (int task = 0; task < 4; ++task)
        EXPECT_EQ(
            run(job, "exit 0", fmt::format("SLURM_ARRAY_TASK_ID={}", task)).words,
            fmt::format(
                "launch\n-n\n2\n--threads\n1\n--grace\n120\ngpt.toml\noptimizer.lr={}\nrun.folder=runs/50% of it/{}\n",
                expected[task], task));
}

TEST(Sweep, IsEveryCombination) {
    EXPECT_THAT(combinations({"a.x=1,2", "b.y=3"}), ElementsAre(Words{"a.x=1", "b.y=3"}, Words{"a.x=2", "b.y=3"}));
}

TEST(Sweep, ThatIsNoneIsRefused) {
    EXPECT_THAT([] { combinations({"a.x="}); }, ThrowsMessage<ConfigError>(HasSubstr("expected section.key=VALUE")));
    EXPECT_THAT([] { combinations({"a.x"}); }, ThrowsMessage<ConfigError>(HasSubstr("expected section.key=VALUE")));
    EXPECT_THAT([] { combinations({"a.x=1", "a.x=2"}); }, ThrowsMessage<ConfigError>(HasSubstr("a.x is swept twice")));
    EXPECT_THAT([] { combinations({"run.folder=a,b"}); }, ThrowsMessage<ConfigError>(HasSubstr("a folder of its own")));
    std::string many = "a.x=0";
    for (int i = 1; i <= 1000; ++i)
        many += ',' + std::to_string(i);
    EXPECT_THAT([&] { combinations({many}); }, ThrowsMessage<ConfigError>(HasSubstr("more than 1000 runs")));
}

TEST(TimeLimit, IsReadAsSlurmReadsIt) {
    EXPECT_EQ(seconds_of("90"), 90 * 60);
    EXPECT_EQ(seconds_of("2:30"), 150);
    EXPECT_EQ(seconds_of("4:00:00"), 4 * 3600);
    EXPECT_EQ(seconds_of("2-12"), (48 + 12) * 3600);
    EXPECT_EQ(seconds_of("1-0:30"), 86'400 + 1800);
    EXPECT_EQ(seconds_of("0-1:2:3"), 3723);
    for (const char* wrong : {"", "4h", "0", "1:2:3:4", "-1", "1-", "1:", "9999999", "infinite", "-"})
        EXPECT_THAT([&] { seconds_of(wrong); }, ThrowsMessage<ConfigError>(HasSubstr("expected minutes"))) << wrong;
}

TEST(JobStates, AreReadFromWhatSlurmTells) {
    const auto states = job_states(
        "JobId=12 JobName=x JobState=RUNNING Reason=None ExitCode=0:0 NodeList=n[1-2] BatchHost=n1\n"
        "JobId=13 ArrayJobId=13 ArrayTaskId=2 JobName=x JobState=FAILED Reason=NonZeroExitCode ExitCode=5:0 "
        "NodeList=n1\n"
        "JobId=14 JobName=x JobState=TIMEOUT Reason=TimeLimit ExitCode=0:15 NodeList=n1\n"
        "JobId=15 JobName=x JobState=PENDING Reason=BeginTime Restarts=1 ExitCode=0:0 NodeList=(null)\n"
        "JobId=16 JobName=x JobState=COMPLETED Reason=None ExitCode=0:0 NodeList=n1\n"
        "JobId=17 JobName=x JobState=NODE_FAIL Reason=None ExitCode=0:0 NodeList=n1\n\nslurm_load_jobs error\n");
    ASSERT_EQ(states.size(), 6U);
    EXPECT_FALSE(states[0].ended);
    EXPECT_EQ(states[0].state + states[0].nodes, "RUNNINGn[1-2]");
    EXPECT_EQ(states[1].number, "13_2");
    EXPECT_EQ(states[1].code, 5);
    EXPECT_EQ(states[2].code, 128 + SIGTERM);
    EXPECT_FALSE(states[3].ended);
    EXPECT_EQ(states[3].state, "PENDING (BeginTime)");
    EXPECT_TRUE(states[4].ended && states[4].code == 0);
    EXPECT_EQ(states[5].code, exit_code::failure) << "ended by Slurm, without a code";
}

TEST(JobHistory, KnowsHowJobsEndedThatSlurmHasForgotten) {
    JobHistory history;
    const std::string failed =
        "JobId=13 ArrayJobId=12 ArrayTaskId=0 JobState=FAILED Reason=x ExitCode=5:0 NodeList=n1\n";
    const std::string waits = "JobId=12 ArrayJobId=12 ArrayTaskId=1-2%1 JobState=PENDING NodeList=(null)\n";
    const std::string runs = "JobId=14 ArrayJobId=12 ArrayTaskId=1 JobState=RUNNING NodeList=n1\n";
    const std::string done = "JobId=14 ArrayJobId=12 ArrayTaskId=1 JobState=COMPLETED ExitCode=0:0 NodeList=n1\n"
                             "JobId=12 ArrayJobId=12 ArrayTaskId=2 JobState=COMPLETED ExitCode=0:0 NodeList=n1\n";
    EXPECT_EQ(history.take("12", true, failed + waits).size(), 2U);
    EXPECT_FALSE(history.all_ended({"12"}));
    EXPECT_EQ(history.take("12", true, failed + runs).size(), 1U);
    EXPECT_TRUE(history.take("12", true, runs).empty());
    EXPECT_TRUE(history.take("12", false, "slurm_load_jobs error: Unable to contact slurm controller").empty());
    EXPECT_FALSE(history.heard());
    EXPECT_EQ(history.take("12", true, done).size(), 2U);
    EXPECT_TRUE(history.all_ended({"12"}));
    EXPECT_EQ(history.code({"12"}), 5);
    EXPECT_TRUE(history.take("12", false, "slurm_load_jobs error: Invalid job id specified").empty());
    EXPECT_TRUE(history.heard() && history.all_ended({"12"}));

    EXPECT_TRUE(history.take("20", false, "slurm_load_jobs error: Invalid job id specified").empty());
    EXPECT_FALSE(history.heard()) << "never seen";
    history.take("20", true, "JobId=20 JobState=RUNNING NodeList=n1\n");
    EXPECT_FALSE(history.all_ended({"12", "20"}));
    EXPECT_EQ(history.take("20", false, "slurm_load_jobs error: Invalid job id specified").size(), 1U);
    EXPECT_TRUE(history.all_ended({"12", "20"}));
    EXPECT_EQ(history.code({"12", "20"}), exit_code::failure);
}

} // namespace
} // namespace tessera
