// SPDX-License-Identifier: Apache-2.0
// Every call of a save that changes files, on every rank, in turn: the process is killed at it, or it fails. There is
// always a whole checkpoint, the one before or the new one. Runs under fault_io.cpp's library. TESSERA_LONG_TESTS: on
// more ranks, and every error at every call.
#include "core/checkpoint/checkpoint_writer.hpp"
#include "kernels/error.hpp"
#include "tests/core/checkpoint_team.hpp"
#include "tests/faults/rank_processes.hpp"

#include <csignal>
#include <cstdlib>
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <set>
#include <sstream>

using namespace tessera;
namespace fs = std::filesystem;

namespace {

// /dev/shm: thousands of saves; a killed process loses nothing that it has written, whatever the file system.
// Files of this name also are what libhdf5 draws.
constexpr const char* place = "/dev/shm/tessera-";

bool long_form() { return std::getenv("TESSERA_LONG_TESTS") != nullptr; }

auto* fault_arm() {
    return reinterpret_cast<void (*)(const char*, long, const char*)>(dlsym(RTLD_DEFAULT, "fault_arm"));
}
auto* fault_record() { return reinterpret_cast<const char* (*)()>(dlsym(RTLD_DEFAULT, "fault_record")); }
auto* fault_calls() { return reinterpret_cast<long (*)()>(dlsym(RTLD_DEFAULT, "fault_calls")); }

constexpr std::int64_t rows = 6;

// Rank r of R has its rows of 'w' and 'v', filled by the step.
struct Content {
    std::vector<BoxMemory> memory;
    CheckpointContent content;

    Content(const Team& team, std::int64_t step) {
        content.step = step;
        content.metadata = {{"seed", "7"}, {"config", "[model]\nn = 1\n"}};
        const std::int64_t first = rows * team.rank / team.size, end = rows * (team.rank + 1) / team.size;
        for (int tensor = 0; tensor < 2; ++tensor) {
            memory.emplace_back(std::vector<std::int64_t>{first, 0}, Shape{end - first, 5}, DType::f32);
            fill({rows, 5}, static_cast<std::uint32_t>(step), memory.back());
        }
        content.tensors = {{"w", {rows, 5}, DType::f32, {first, 0}, memory[0].view()},
                           {"v", {rows, 5}, DType::f32, {first, 0}, memory[1].view()}};
    }
};

// What the save of a step says: "" or why it failed.
std::string save_step(const Team& team, const std::string& folder, std::int64_t step,
                      CheckpointWriter* writer = nullptr) {
    CheckpointWriter own(team, folder, {1, 0});
    const Content content(team, step);
    try {
        CheckpointWriter& used = writer == nullptr ? own : *writer;
        used.begin(content.content);
        used.finish();
    } catch (const SystemError& error) {
        return error.what();
    }
    return "";
}

void save_undisturbed(const std::string& folder, std::int64_t step) {
    for (const std::string& failure : run_team(2, [&](const Team& team) {
             if (const std::string said = save_step(team, folder, step); !said.empty()) throw SystemError(said);
         }))
        ASSERT_EQ(failure, "");
}

// The step of the newest checkpoint; below 0 where there is none, or something that is visible is not whole.
std::int64_t newest_whole(const std::string& folder) {
    std::vector<std::string> skipped;
    const std::string newest = newest_checkpoint(folder, &skipped);
    if (newest.empty() || !skipped.empty()) return -1;
    if (!complaint(newest).empty()) return -2;
    const Checkpoint checkpoint(newest);
    for (const char* name : {"w", "v"}) {
        BoxMemory all({0, 0}, {rows, 5}, DType::f32);
        checkpoint.read(name, {0, 0}, all.view());
        if (wrong_elements({rows, 5}, static_cast<std::uint32_t>(checkpoint.step()), all) != 0) return -3;
    }
    return checkpoint.step();
}

// The calls that a save of each rank makes.
std::vector<long> count_calls(int ranks, std::int64_t before, std::int64_t step) {
    const ScratchFolder scratch(place);
    save_undisturbed(scratch.path(), before);
    std::vector<long> calls;
    for (const RankEnd& end : run_processes(ranks, [&](const Team& team) {
             fault_arm()(place, 0, "kill");
             const std::string failure = save_step(team, scratch.path(), step);
             return failure.empty() ? std::to_string(fault_calls()()) : failure;
         }))
        calls.push_back(std::stol(end.said));
    EXPECT_EQ(newest_whole(scratch.path()), step);
    return calls;
}

// Kills `victim` at its call number `at` of a save of `step`, where step `before` is there.
void kill_at(int ranks, int victim, long at, std::int64_t before, std::int64_t step) {
    const ScratchFolder scratch(place);
    save_undisturbed(scratch.path(), before);
    const std::vector<RankEnd> ends = run_processes(ranks, [&](const Team& team) {
        if (team.rank == victim) fault_arm()(place, at, "kill");
        return save_step(team, scratch.path(), step);
    });
    const int status = ends[static_cast<std::size_t>(victim)].status;
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "rank " << victim << " call " << at;
    const std::int64_t found = newest_whole(scratch.path());
    EXPECT_TRUE(found == before || found == step) << "rank " << victim << " call " << at << ": " << found;
    save_undisturbed(scratch.path(), step + 1); // what the dead left is in nobody's way
    EXPECT_EQ(newest_whole(scratch.path()), step + 1);
    EXPECT_EQ(std::distance(fs::directory_iterator(scratch.path()), {}), 1);
}

// Lets call number `at` fail; the same processes then save the next step. Whether the save said so.
bool fail_at(int ranks, int victim, long at, const char* kind, const std::string& reason) {
    const ScratchFolder scratch(place);
    save_undisturbed(scratch.path(), 1);
    const std::vector<RankEnd> ends = run_processes(ranks, [&](const Team& team) {
        CheckpointWriter writer(team, scratch.path(), {1, 0});
        if (team.rank == victim) fault_arm()(place, at, kind);
        std::string said = save_step(team, scratch.path(), 2, &writer);
        const std::int64_t found = newest_whole(scratch.path());
        if (!team.all(found == 2 || (!said.empty() && found == 1))) said = "neither the one before nor the new one";
        if (const std::string again = save_step(team, scratch.path(), 3, &writer); !again.empty())
            return "again: " + again;
        return said;
    });
    const std::string where = fmt::format("{} at call {} of rank {}: {}", kind, at, victim, ends[0].said);
    for (const RankEnd& end : ends) {
        EXPECT_EQ(end.status, 0) << where;
        EXPECT_EQ(end.said, ends[0].said) << where; // all ranks are told the same
    }
    EXPECT_EQ(newest_whole(scratch.path()), 3) << where;
    const std::string& said = ends[0].said;
    if (said.empty()) return false;
    const std::string start =
        "checkpoint " + scratch.path("step-00000002") + " was not saved: rank " + std::to_string(victim) + ": cannot ";
    EXPECT_TRUE(said.starts_with(start)) << where;                    // the call
    EXPECT_TRUE(contains(said.substr(start.size()), place)) << where; // the path
    EXPECT_TRUE(contains(said, reason)) << where;
    return true;
}

// What a rank did to files, in its order; times are those of all ranks of a host.
struct Act {
    long long time = 0;
    std::string call, path;
};

std::vector<Act> acts_of(const std::string& record) {
    std::vector<Act> acts;
    std::istringstream lines(record);
    for (Act act; lines >> act.time >> act.call && std::getline(lines >> std::ws, act.path);)
        acts.push_back(act);
    return acts;
}

// Of the last act that `is` one; 0 for none.
long long last(const std::vector<Act>& acts, const std::function<bool(const Act&)>& is) {
    long long time = 0;
    for (const Act& act : acts)
        if (is(act)) time = act.time;
    return time;
}

} // namespace

// What a power cut leaves: nothing that was not synced may be needed by what can be seen.
TEST(Faults, NothingIsShownBeforeItIsOnTheDisk) {
    ASSERT_NE(fault_record(), nullptr) << "LD_PRELOAD the library of fault_io.cpp";
    const ScratchFolder scratch(place);
    save_undisturbed(scratch.path(), 1);
    std::vector<std::vector<Act>> ranks;
    for (const RankEnd& end : run_processes(2, [&](const Team& team) {
             fault_arm()(place, 0, "kill");
             const std::string failure = save_step(team, scratch.path(), 2);
             return failure.empty() ? fault_record()() : failure;
         }))
        ranks.push_back(acts_of(end.said));
    const std::string shown = scratch.path("step-00000002"), hidden = scratch.path(".tmp-step-00000002");
    const auto is = [](const char* call, const std::string& path) {
        return [=](const Act& act) { return act.call == call && act.path == path; };
    };
    const long long published = last(ranks[0], is("rename", shown));
    const long long manifest = last(ranks[0], is("write", hidden + "/MANIFEST"));
    ASSERT_GT(published, 0);
    for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
        std::set<std::string> written;
        for (const Act& act : ranks[rank])
            if (act.call == "write" && act.path.starts_with(hidden)) written.insert(act.path);
        EXPECT_EQ(written.size(), rank == 0 ? 3U : 1U); // its own; index and MANIFEST
        for (const std::string& path : written) {
            const long long synced = last(ranks[rank], is("fsync", path));
            EXPECT_GT(synced, last(ranks[rank], is("write", path))) << path;
            EXPECT_LT(synced, published) << path;
            if (!path.ends_with("/MANIFEST")) { // which is the last
                EXPECT_LT(synced, manifest) << path;
            }
        }
    }
    const long long folder = last(ranks[0], is("fsync", hidden)), parent = last(ranks[0], is("fsync", scratch.path()));
    EXPECT_GT(folder, last(ranks[0], is("fsync", hidden + "/MANIFEST")));
    EXPECT_LT(folder, published);
    EXPECT_GT(parent, published);
    for (const Act& act : ranks[0]) // the checkpoint before goes when the new one stays
        if (act.path.starts_with(scratch.path()) && act.call != "write" && act.call != "fsync" && act.path != shown) {
            EXPECT_GT(act.time, published) << act.call << ' ' << act.path;
        }
    EXPECT_TRUE(std::ranges::any_of(ranks[0], [&](const Act& act) {
        return act.call == "fsync" && act.path == scratch.path() && act.time > published &&
               act.time < last(
                              ranks[0], [](const Act& one) { return one.call == "unlink"; });
    }));
}

TEST(Faults, KilledAtEachCallOfASave) {
    ASSERT_NE(fault_arm(), nullptr) << "LD_PRELOAD the library of fault_io.cpp";
    for (const int ranks : long_form() ? std::vector<int>{1, 2, 4} : std::vector<int>{2})
        for (const std::int64_t step : {std::int64_t{2}, std::int64_t{1}}) { // 1: in the place of that of the same step
            const std::vector<long> calls = count_calls(ranks, 1, step);
            for (int victim = 0; victim < ranks; ++victim) {
                EXPECT_GT(calls[static_cast<std::size_t>(victim)], 15);
                for (long at = 1; at <= calls[static_cast<std::size_t>(victim)]; ++at)
                    kill_at(ranks, victim, at, 1, step);
            }
        }
}

TEST(Faults, EachCallOfASaveFails) {
    ASSERT_NE(fault_arm(), nullptr) << "LD_PRELOAD the library of fault_io.cpp";
    const int ranks = long_form() ? 3 : 2;
    const std::vector<long> calls = count_calls(ranks, 1, 2);
    const std::vector<std::pair<const char*, std::string>> errors = {{"ENOSPC", "No space left on device"},
                                                                     {"EIO", "Input/output error"},
                                                                     {"EDQUOT", "Disk quota exceeded"},
                                                                     {"EACCES", "Permission denied"}};
    for (int victim = 0; victim < ranks; ++victim) {
        long said = 0, turn = 0;
        for (long at = 1; at <= calls[static_cast<std::size_t>(victim)]; ++at) {
            for (std::size_t i = 0; i < errors.size(); ++i)
                if (long_form() || static_cast<long>(i) == turn % 4)
                    said += fail_at(ranks, victim, at, errors[i].first, errors[i].second);
            ++turn;
            EXPECT_FALSE(fail_at(ranks, victim, at, "short", "")) << at; // is written on
        }
        EXPECT_GT(said, 10) << victim;
    }
}
