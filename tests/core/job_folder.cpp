// SPDX-License-Identifier: Apache-2.0
// The first failure of a job stays, whoever writes at the same time; what is no such file is none.
#include "core/watch/job_folder.hpp"

#include <fstream>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;

class JobFolder : public testing::Test {
protected:
    JobFolder() { fs::remove_all(run_); }
    ~JobFolder() override { fs::remove_all(run_); }
    void write(const std::string& name, const std::string& text) {
        fs::create_directories(job_folder(run_));
        std::ofstream(job_folder(run_) / name) << text;
    }
    fs::path run_ = fs::temp_directory_path() / ("tessera-job-" + std::to_string(::getpid()));
};

TEST_F(JobFolder, SaysWhatWasNoted) {
    EXPECT_FALSE(read_failure(run_));
    EXPECT_TRUE(note_failure(run_, {"stalled", 4, {3, "c\"01", 4711}, 17, "rank 3 sleeps\nin \"data\"", 0}));
    const auto failure = read_failure(run_);
    ASSERT_TRUE(failure);
    EXPECT_EQ(failure->kind, "stalled");
    EXPECT_EQ(failure->code, 4);
    EXPECT_EQ(failure->place, (RankPlace{3, "c\"01", 4711}));
    EXPECT_EQ(failure->step, 17);
    EXPECT_EQ(failure->message, "rank 3 sleeps\nin \"data\"");
    EXPECT_GT(failure->time, 1'700'000'000);
}

TEST_F(JobFolder, TheFirstFailureStays) {
    EXPECT_TRUE(note_failure(run_, {.kind = "data", .code = 3, .message = "first"}));
    EXPECT_FALSE(note_failure(run_, {.kind = "error", .message = "second"}));
    EXPECT_EQ(read_failure(run_)->message, "first");
    EXPECT_EQ(read_failure(run_)->step, -1);
    // Nothing else is left behind.
    EXPECT_EQ(std::distance(fs::directory_iterator(job_folder(run_)), {}), 1);
}

TEST_F(JobFolder, OneOfManyProcessesIsFirst) {
    fs::create_directories(job_folder(run_));
    constexpr int processes = 8;
    for (int i = 0; i < processes; ++i)
        if (::fork() == 0) ::_exit(note_failure(run_, {.place = {i, "h", i}, .message = "I"}) ? 1 : 0);
    int first = 0, status = 0;
    while (::wait(&status) > 0)
        first += WEXITSTATUS(status);
    EXPECT_EQ(first, 1);
    EXPECT_EQ(read_failure(run_)->message, "I");
}

TEST_F(JobFolder, WhereNothingCanBeWrittenNothingIsThrown) {
    EXPECT_FALSE(note_failure("/proc/nowhere", {}));
    EXPECT_FALSE(read_failure("/proc/nowhere"));
}

TEST_F(JobFolder, GarbageIsNone) {
    for (const char* text : {"", "{", "{\"kind\": \"da", "\xff\xfe"}) {
        write("failure.json", text);
        write("ranks.json", text);
        EXPECT_FALSE(read_failure(run_)) << text;
        EXPECT_TRUE(read_ranks(run_).empty()) << text;
    }
}

TEST_F(JobFolder, RanksComeBack) {
    EXPECT_TRUE(read_ranks(run_).empty());
    const std::vector<RankPlace> ranks{{0, "a", 10}, {1, "a", 11}, {2, "b\\", 10}};
    write_ranks(run_, ranks);
    EXPECT_EQ(read_ranks(run_), ranks);
}

TEST_F(JobFolder, AFailureOfAJobBeforeIsForgottenOneOfThisIsNot) {
    write("verdict.txt", "old");
    note_failure(run_, {.place = {1, "a", 99}, .message = "old"});
    write_ranks(run_, {{0, "a", 10}, {1, "a", 11}});
    EXPECT_FALSE(read_failure(run_));
    EXPECT_FALSE(fs::exists(job_folder(run_) / "verdict.txt"));
    note_failure(run_, {.place = {1, "a", 11}, .message = "new"});
    write_ranks(run_, {{0, "a", 10}, {1, "a", 11}});
    ASSERT_TRUE(read_failure(run_));
    EXPECT_EQ(read_failure(run_)->message, "new");
}

// A host that was cut off comes back, with ranks of an attempt that is over.
TEST_F(JobFolder, OneOfAnotherAttemptNotesNothing) {
    const auto as = [](const char* job, const auto& what) {
        ::setenv(job_variable, job, 1);
        what();
        ::unsetenv(job_variable);
    };
    const std::vector<RankPlace> old{{0, "a", 10}, {1, "b", 11}}, now{{0, "a", 20}, {1, "c", 21}};
    as("x.1", [&] {
        write_ranks(run_, old);
        EXPECT_TRUE(note_failure(run_, {.place = old[1], .message = "old"}));
    });
    EXPECT_EQ(read_failure(run_)->job, "x.1");
    set_job_folder_aside(run_);
    as("x.1", [&] { EXPECT_TRUE(note_failure(run_, {.place = old[1], .message = "before the ranks are known"})); });
    as("x.2", [&] {
        EXPECT_TRUE(note_failure(run_, {.place = now[1], .message = "new"})) << "the old one is in the way";
        EXPECT_EQ(read_failure(run_)->message, "new");
        write_ranks(run_, now);
        EXPECT_EQ(read_failure(run_)->message, "new");
    });
    EXPECT_EQ(read_ranks(run_), now);
    set_job_folder_aside(run_);
    as("x.2", [&] { write_ranks(run_, now); });
    as("x.1", [&] {
        EXPECT_TRUE(is_of_another_job(run_));
        EXPECT_FALSE(note_failure(run_, {.place = old[1], .message = "still there"}));
    });
    EXPECT_FALSE(read_failure(run_));
    as("x.2", [&] { EXPECT_FALSE(is_of_another_job(run_)); });
}

// As plain mpirun starts it, where `launch` has been, or mpirun before.
TEST_F(JobFolder, AJobWithoutANameNotesOverWhatIsOlder) {
    ::setenv(job_variable, "x.1", 1);
    write_ranks(run_, {{0, "a", 10}});
    EXPECT_TRUE(note_failure(run_, {.message = "launched"}));
    ::unsetenv(job_variable);
    const JobStart start = job_start(run_);
    EXPECT_EQ(start.before, "x.1");
    EXPECT_FALSE(note_failure(run_, {.message = "one that began before the launch"}));
    EXPECT_TRUE(note_failure(run_, {.message = "new"}, start));
    EXPECT_FALSE(note_failure(run_, {.message = "second"}, start));
    EXPECT_EQ(read_failure(run_)->message, "new");
    EXPECT_TRUE(note_failure(run_, {.message = "next"}, {"x.1", start.time + 60}));
    ::setenv(job_variable, "x.2", 1);
    write_ranks(run_, {{0, "a", 20}});
    ::unsetenv(job_variable);
    EXPECT_FALSE(note_failure(run_, {.message = "cut off"}, start)) << "into the next launch";
}

// What the first of them has put there is not taken for the old one.
TEST_F(JobFolder, OneOfManyProcessesReplacesAnOldFailure) {
    for (int round = 0; round < 20; ++round) {
        ASSERT_TRUE(note_failure(run_, {.message = "old", .job = "x." + std::to_string(round)}));
        int first = 0, status = 0;
        for (int i = 0; i < 8; ++i)
            if (::fork() == 0)
                ::_exit(note_failure(run_, {.message = "I", .job = "y." + std::to_string(round)}) ? 1 : 0);
        while (::wait(&status) > 0)
            first += WEXITSTATUS(status);
        EXPECT_EQ(first, 1);
        EXPECT_EQ(read_failure(run_)->message, "I");
    }
}

TEST_F(JobFolder, IsClearedOrSetAside) {
    EXPECT_EQ(set_job_folder_aside(run_), "");
    for (const char* name : {"job.1", "job.2"}) {
        note_failure(run_, {.message = name});
        EXPECT_EQ(set_job_folder_aside(run_), run_ / name);
        EXPECT_FALSE(read_failure(run_));
        EXPECT_TRUE(fs::exists(run_ / name / "failure.json"));
    }
    note_failure(run_, {});
    clear_job_folder(run_);
    EXPECT_FALSE(fs::exists(job_folder(run_)));
    clear_job_folder(run_);
}

TEST(FailureKind, FollowsTheExitCode) {
    EXPECT_EQ(failure_kind(2), "config");
    EXPECT_EQ(failure_kind(3), "data");
    EXPECT_EQ(failure_kind(4), "lost");
    EXPECT_EQ(failure_kind(5), "diverged");
    EXPECT_EQ(failure_kind(1), "error");
    EXPECT_EQ(failure_kind(139), "error");
}

} // namespace
} // namespace tessera
