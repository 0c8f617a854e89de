// SPDX-License-Identifier: Apache-2.0
// Of a job nothing is left, and of others nothing is lost. And one launcher at a time for a run.
#include "launcher/job/clean.hpp"

#include "kernels/error.hpp"
#include "launcher/job/job.hpp"
#include "launcher/job/process.hpp"
#include "launcher/job/run_lock.hpp"

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <gtest/gtest.h>
#include <iterator>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace tessera {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

pid_t sleeper(const std::map<std::string, std::string>& environment, const std::string& word = "x") {
    return start_process({"sh", "-c", "while :; do sleep 0.1; done", word}, environment, {});
}

bool ended_by_kill(pid_t process) { return wait_for(process) == 128 + SIGKILL; }

TEST(Clean, EndsTheProcessesOfAJobAndNoOthers) {
    const std::string id = new_job_id(3), other = new_job_id(3);
    ASSERT_TRUE(is_job_id(id)) << id;
    const pid_t rank = sleeper({{job_variable, id}}), stopped = sleeper({{job_variable, id}});
    const pid_t daemon = sleeper({}, "/tmp/" + id);
    const pid_t bystander = sleeper({{job_variable, other}}), stranger = sleeper({{"OTHER", "x"}});
    const pid_t cleaner = start_process({"sh", "-c", "while :; do sleep 0.1; done", "--clean", id}, {}, {});
    ::kill(stopped, SIGSTOP);
    for (const char* folder : {"/tmp/", "/dev/shm/"}) {
        fs::create_directories(folder + id + "/deep");
        std::ofstream(folder + id + "/deep/file") << "x";
        fs::create_directories(folder + other);
    }
    EXPECT_TRUE(is_of_job(rank, id) && is_of_job(stopped, id) && is_of_job(daemon, id));
    EXPECT_FALSE(is_of_job(bystander, id) || is_of_job(stranger, id) || is_of_job(cleaner, id));
    const Cleaned cleaned = clean_this_host(id, 30s);
    EXPECT_FALSE(is_of_job(rank, id)); // not waited for yet: a zombie
    EXPECT_GE(cleaned.ended, 3);       // and the sleep of each
    EXPECT_TRUE(cleaned.left.empty());
    EXPECT_TRUE(ended_by_kill(rank) && ended_by_kill(stopped) && ended_by_kill(daemon));
    EXPECT_FALSE(fs::exists("/tmp/" + id) || fs::exists("/dev/shm/" + id));
    EXPECT_TRUE(fs::exists("/tmp/" + other) && fs::exists("/dev/shm/" + other));
    for (const pid_t process : {bystander, stranger, cleaner}) {
        EXPECT_FALSE(exit_code_of(process));
        ::kill(process, SIGKILL);
        wait_for(process);
    }
    EXPECT_EQ(clean_this_host(id, 30s).ended, 0);
    clean_this_host(other, 30s);
    EXPECT_FALSE(fs::exists("/dev/shm/" + other));
}

// In this process, from now on, the system has no descriptors of processes, as before Linux 5.3.
bool forbid_process_descriptors() {
    sock_filter rules[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                           BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pidfd_open, 0, 1),
                           BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
                           BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    const sock_fprog filter{std::size(rules), rules};
    return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

TEST(Clean, WorksWithoutDescriptorsOfProcesses) {
    const std::string id = new_job_id(1);
    const pid_t rank = sleeper({{job_variable, id}}), bystander = sleeper({});
    const pid_t cleaner = fork();
    if (cleaner == 0) {
        if (!forbid_process_descriptors()) ::_exit(77);
        const Cleaned cleaned = clean_this_host(id, 30s);
        ::_exit(cleaned.ended >= 1 && cleaned.left.empty() ? 0 : 1);
    }
    const int code = wait_for(cleaner);
    EXPECT_FALSE(exit_code_of(bystander));
    ::kill(bystander, SIGKILL);
    wait_for(bystander);
    if (code == 77) ::kill(rank, SIGKILL);
    EXPECT_TRUE(ended_by_kill(rank));
    if (code == 77) GTEST_SKIP() << "no seccomp here";
    EXPECT_EQ(code, 0);
}

TEST(Clean, TakesNothingElseForAJob) {
    EXPECT_NE(new_job_id(1), new_job_id(1));
    for (const char* text :
         {"", "tessera-", "tessera-0123456789abcdef", "tessera-0123456789abcdef.", "../etc",
          "tessera-0123456789abcdef.1/..", "tessera-0123456789abcdeg.1", "tessera-0123456789abcdef.x"}) {
        EXPECT_FALSE(is_job_id(text)) << text;
        EXPECT_THROW(clean_this_host(text, 1s), ConfigError);
    }
}

TEST(RunLock, IsHeldByOneLauncherUntilItEnds) {
    const fs::path folder = fs::temp_directory_path() / fmt::format("tessera-lock-{}", getpid());
    const pid_t holder = fork(); // that dies without a word
    if (holder == 0) {
        const RunLock lock(folder, "tessera-0123456789abcdef.1");
        std::ofstream(folder / "ready") << "x";
        for (;;)
            pause();
    }
    for (int tries = 0; tries < 1000 && !fs::exists(folder / "ready"); ++tries)
        usleep(10'000);
    try {
        const RunLock lock(folder, "other");
        ADD_FAILURE() << "two at once";
    } catch (const ConfigError& error) {
        const std::string text = error.what();
        EXPECT_NE(text.find(fmt::format("{} is being trained already, by process {} on ", folder.string(), holder)),
                  std::string::npos)
            << text;
        EXPECT_NE(text.find("job tessera-0123456789abcdef.1, since "), std::string::npos) << text;
    }
    ::kill(holder, SIGKILL);
    ::waitpid(holder, nullptr, 0);
    EXPECT_EQ(RunLock(folder, "other").warning(), "");
    fs::remove_all(folder);
}

// As mpirun may, by some seconds.
TEST(RunLock, IsHeldByWhatADeadLauncherHasStarted) {
    const fs::path folder = fs::temp_directory_path() / fmt::format("tessera-lock-{}", getpid());
    Pipe pipe = make_pipe();
    const pid_t holder = fork();
    if (holder == 0) {
        const RunLock lock(folder, "tessera-0123456789abcdef.1");
        const pid_t child =
            start_process({"sh", "-c", "trap '' TERM; sleep 1.5; touch " + (folder / "end").string()}, {}, {});
        [[maybe_unused]] const ssize_t written = ::write(pipe.write.number(), &child, sizeof child);
        ::usleep(300'000); // its trap
        ::kill(::getpid(), SIGKILL);
    }
    ::waitpid(holder, nullptr, 0);
    EXPECT_FALSE(fs::exists(folder / "end"));
    EXPECT_EQ(RunLock(folder, "other").left(), "tessera-0123456789abcdef.1");
    EXPECT_TRUE(fs::exists(folder / "end"));
    EXPECT_EQ(RunLock(folder, "other").left(), "") << "this process is there";
    fs::remove_all(folder);
}

} // namespace
} // namespace tessera
