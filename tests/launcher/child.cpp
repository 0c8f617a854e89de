// SPDX-License-Identifier: Apache-2.0
// run_child: exit codes, environment and input of the child, and what becomes of signals to the launcher.
#include "launcher/job/child.hpp"

#include "core/exit_codes.hpp"
#include "kernels/error.hpp"

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <functional>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace tessera {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

constexpr auto long_grace = std::chrono::seconds(60);

int run_script(const std::string& script, std::chrono::seconds grace = long_grace) {
    const SignalInbox signals;
    return run_child({"bash", "-c", script}, {{"TESSERA_TEST", "a b"}}, grace, signals).code;
}

// Runs the script under run_child in a process of its own, and `act` on that process's id as soon as the script has
// made the file $READY. Returns the code with which run_child came back; -1 when it ended otherwise.
int while_it_runs(const std::string& script, std::chrono::seconds grace, const std::function<void(pid_t)>& act) {
    const fs::path ready = fs::temp_directory_path() / fmt::format("tessera-child-{}", getpid());
    fs::remove(ready);
    const pid_t launcher = fork();
    if (launcher == 0) {
        setenv("READY", ready.c_str(), 1);
        _exit(run_script(script, grace));
    }
    for (int tries = 0; tries < 1000 && !fs::exists(ready); ++tries)
        std::this_thread::sleep_for(10ms);
    act(launcher);
    int status = -1;
    waitpid(launcher, &status, 0);
    fs::remove(ready);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Child, ItsExitCodeIsOurs) {
    EXPECT_EQ(run_script("exit 0"), 0);
    EXPECT_EQ(run_script("exit 75"), 75);
    EXPECT_EQ(run_script("kill -KILL $$"), 128 + SIGKILL);
}

TEST(Child, HasItsOwnSessionTheEnvironmentAndNoInput) {
    EXPECT_EQ(run_script("test \"$TESSERA_TEST\" = 'a b'"), 0);
    EXPECT_EQ(std::getenv("TESSERA_TEST"), nullptr); // what is started later is no part of the job
    EXPECT_EQ(run_script("! read -r word"), 0);
    EXPECT_EQ(run_script("test $(cut -d' ' -f6 /proc/$$/stat) = $$"), 0);
}

TEST(Child, ThatCannotBeStartedIsASentence) {
    try {
        const SignalInbox signals;
        run_child({"no-such-program"}, {}, long_grace, signals);
        FAIL() << "started";
    } catch (const SystemError& error) {
        EXPECT_STREQ(error.what(), "cannot start no-such-program: No such file or directory");
    }
}

TEST(Child, EverySignalAsksItToSaveAndStop) {
    for (const int signal : {SIGUSR1, SIGINT, SIGTERM, SIGHUP}) {
        const int code = while_it_runs("trap 'exit 75' USR1; trap 'exit 1' TERM INT HUP; touch $READY; "
                                       "while :; do sleep 0.02; done",
                                       long_grace, [signal](pid_t launcher) { kill(launcher, signal); });
        EXPECT_EQ(code, 75) << signal;
    }
}

// mpirun passes SIGUSR1 on to its ranks and waits for them; SIGTERM would have it kill them within two seconds.
TEST(Child, MpirunLetsItsRanksSave) {
    const std::string rank =
        "trap \"sleep 3; exit 75\" USR1; touch $READY.$OMPI_COMM_WORLD_RANK; while :; do sleep 0.02; done";
    const std::string script =
        "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; rm -f $READY.?; "
        "(until [ -e $READY.0 ] && [ -e $READY.1 ]; do sleep 0.02; done; touch $READY; rm $READY.?) & "
        "exec mpirun -n 2 --oversubscribe --bind-to none bash -c '" +
        rank + "'";
    testing::internal::CaptureStderr(); // mpirun says at length that a rank ended with a code
    const int code = while_it_runs(script, long_grace, [](pid_t launcher) { kill(launcher, SIGTERM); });
    const std::string words = testing::internal::GetCapturedStderr();
    EXPECT_EQ(code, 75) << words;
}

void send(pid_t launcher, const std::vector<int>& signals) {
    for (const int signal : signals) {
        kill(launcher, signal);
        std::this_thread::sleep_for(100ms); // two at once would be one
    }
}

TEST(Child, ASecondSignalEndsIt) {
    struct Case {
        std::vector<int> signals;
        int code;
    };
    for (const auto& [signals, expected] :
         {Case{{SIGINT, SIGINT}, exit_code::interrupted}, {{SIGINT, SIGTERM}, 9}, {{SIGTERM, SIGTERM}, 9}}) {
        const int code = while_it_runs("trap '' USR1; trap 'exit 9' TERM; touch $READY; while :; do sleep 0.02; done",
                                       long_grace, [&](pid_t launcher) { send(launcher, signals); });
        EXPECT_EQ(code, expected) << signals[1];
    }
}

TEST(Child, IsToldToSaveAndGoOn) {
    const int code = while_it_runs("trap 'saved=1' USR2; trap 'exit 75' USR1; trap 'exit 9' TERM; touch $READY; "
                                   "until [ \"$saved\" ]; do sleep 0.02; done; sleep 1; exit 0",
                                   0s, [](pid_t launcher) { kill(launcher, SIGUSR2); });
    EXPECT_EQ(code, 0);
}

// mpirun that gets it before it has a handler would die of it.
TEST(Child, GetsSignalsWhenItIsReadyForThem) {
    const fs::path ready = fs::temp_directory_path() / fmt::format("tessera-ready-{}", getpid());
    for (const int signal : {SIGUSR1, SIGTERM}) {
        fs::remove(ready);
        const SignalInbox signals;
        Watch watch;
        watch.ready = [&] { return fs::exists(ready); };
        kill(getpid(), SIGUSR2);
        kill(getpid(), signal);
        const ChildEnd end = run_child({"bash", "-c",
                                        fmt::format("sleep 0.5; trap 'save=1' USR2; trap 'stop=1' USR1; touch {}; "
                                                    "until [ \"$save$stop\" = 11 ]; do sleep 0.02; done; exit 75",
                                                    ready.string())},
                                       {}, long_grace, signals, watch);
        EXPECT_EQ(end.code, 75) << signal;
        EXPECT_EQ(end.asked, Asked::save_and_stop);
    }
    fs::remove(ready);
}

// A closed terminal sends SIGHUP twice, and a batch system SIGTERM some time after SIGUSR1: the run is saving by then.
TEST(Child, OnlyTheSignalsOfOneWhoInsistsCutTheGraceTimeShort) {
    for (const std::vector<int>& signals :
         {std::vector<int>{SIGHUP, SIGHUP, SIGHUP}, {SIGUSR1, SIGUSR1}, {SIGUSR1, SIGTERM, SIGHUP}, {SIGINT, SIGHUP}}) {
        const int code = while_it_runs("trap 'saving=1' USR1; trap 'exit 9' TERM; touch $READY; "
                                       "until [ \"$saving\" ]; do sleep 0.02; done; sleep 0.5; exit 75",
                                       long_grace, [&](pid_t launcher) { send(launcher, signals); });
        EXPECT_EQ(code, 75) << signals[0] << " and " << signals[1];
    }
}

TEST(Child, TheGraceTimeEndsIt) {
    for (const int signal : {SIGUSR1, SIGINT, SIGTERM, SIGHUP}) {
        const int code = while_it_runs("trap '' USR1; trap 'exit 9' TERM; touch $READY; while :; do sleep 0.02; done",
                                       0s, [signal](pid_t launcher) { kill(launcher, signal); });
        EXPECT_EQ(code, 9) << signal;
    }
}

TEST(Child, DiesWithTheLauncher) {
    const fs::path word = fs::temp_directory_path() / fmt::format("tessera-orphan-{}", getpid());
    fs::remove(word);
    while_it_runs(
        fmt::format("trap 'echo ended > {}; exit' TERM; touch $READY; while :; do sleep 0.02; done", word.string()),
        long_grace, [](pid_t launcher) { kill(launcher, SIGKILL); });
    for (int tries = 0; tries < 500 && !fs::exists(word); ++tries)
        std::this_thread::sleep_for(10ms);
    EXPECT_TRUE(fs::exists(word));
    fs::remove(word);
}

TEST(Child, IsHeardWhileItRunsAndEndedWhenWatchSaysSo) {
    const SignalInbox signals;
    std::string said;
    Watch watch;
    watch.said = [&](std::string_view text) { said += text; };
    watch.must_end = [&] { return said == "one\n"; };
    const ChildEnd end =
        run_child({"bash", "-c", "trap 'echo two >&2; exit 7' TERM; echo one >&2; while :; do sleep 0.02; done"}, {},
                  long_grace, signals, watch);
    EXPECT_EQ(said, "one\ntwo\n");
    EXPECT_EQ(end.code, 7);
    EXPECT_TRUE(end.ended_by_us);
    EXPECT_EQ(end.asked, Asked::nothing);
}

// As mpirun does after a host was unplugged for good.
TEST(Child, ThatIgnoresToBeEndedIsKilled) {
    const SignalInbox signals;
    std::string said;
    Watch watch;
    watch.said = [&](std::string_view text) { said += text; };
    watch.must_end = [&] { return !said.empty(); };
    const std::vector<std::string> command{"bash", "-c", "trap '' TERM; echo ready >&2; while :; do sleep 0.02; done"};
    EXPECT_EQ(run_child(command, {}, long_grace, signals, watch).code, 128 + SIGKILL);
}

TEST(Child, OutputIsReadWhenTheProgramSucceeds) {
    EXPECT_EQ(output_of({"bash", "-c", "echo one; echo two >&2"}, long_grace), "one\ntwo\n");
    EXPECT_EQ(output_of({"bash", "-c", "echo one; exit 1"}, long_grace), "");
    EXPECT_EQ(output_of({"no-such-program"}, long_grace), "");
    EXPECT_EQ(output_of({"sleep", "1000"}, 0s), "");
}

} // namespace
} // namespace tessera
