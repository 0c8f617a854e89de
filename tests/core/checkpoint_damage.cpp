// SPDX-License-Identifier: Apache-2.0
// Checkpoints that are not well, and saves that fail: refused with a sentence that names the file, never half there.
#include "core/checkpoint/checkpoint.hpp"
#include "core/checkpoint/durable_files.hpp"
#include "core/checkpoint/manifest.hpp"
#include "kernels/error.hpp"
#include "tests/core/checkpoint_team.hpp"

#include <csignal>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace tessera;
namespace fs = std::filesystem;

namespace {

// Two ranks: 'w' (4, 6) f32 by rows, 'state/w' (4, 6) i32 by columns, 's' () bf16 on rank 1.
CheckpointContent small_content(const Team& team, std::int64_t step, std::vector<BoxMemory>& memory) {
    const std::int64_t rank = team.rank;
    const auto seed = static_cast<std::uint32_t>(step);
    memory.emplace_back(std::vector<std::int64_t>{rank * 2, 0}, Shape{2, 6}, DType::f32);
    fill({4, 6}, seed, memory.back());
    memory.emplace_back(std::vector<std::int64_t>{0, rank * 3}, Shape{4, 3}, DType::i32);
    fill({4, 6}, seed + 1, memory.back());
    CheckpointContent content{step, {{"seed", "7"}}, {}};
    content.tensors = {{"w", {4, 6}, DType::f32, memory[0].start, memory[0].view()},
                       {"state/w", {4, 6}, DType::i32, memory[1].start, memory[1].view()}};
    if (rank == 0) return content;
    memory.emplace_back(std::vector<std::int64_t>{}, Shape{}, DType::bf16);
    fill({}, seed + 2, memory.back());
    content.tensors.push_back({"s", {}, DType::bf16, {}, memory[2].view()});
    return content;
}

// The folder of a small checkpoint of two ranks.
std::string save_small(const std::string& folder, std::int64_t step) {
    for (const std::string& failure : run_team(2, [&](const Team& team) {
             std::vector<BoxMemory> memory;
             save_checkpoint(team, folder, small_content(team, step, memory));
         }))
        EXPECT_EQ(failure, "");
    return fmt::format("{}/step-{:08d}", folder, step);
}

// What opening and reading everything says; "" when all is well.
std::string complaint(const std::string& folder) {
    try {
        Checkpoint(folder).verify();
        return "";
    } catch (const ConfigError& error) {
        return error.what();
    }
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// The manifest's text with a right last line.
std::string sealed(const std::string& body) {
    return body + fmt::format("end {:016x}\n", Hash::of(body.data(), static_cast<std::int64_t>(body.size())));
}

std::string body_of(const std::string& manifest) { return manifest.substr(0, manifest.rfind("end ")); }

std::string replaced(std::string text, const std::string& from, const std::string& to) {
    const std::size_t place = text.find(from);
    EXPECT_NE(place, std::string::npos) << from;
    return text.replace(place, from.size(), to);
}

} // namespace

TEST(CheckpointDamage, EveryFlippedByteIsFoundAndNamed) {
    const ScratchFolder scratch;
    const std::string folder = save_small(scratch.path(), 1);
    ASSERT_EQ(complaint(folder), "");
    std::int64_t flips = 0, in_tensors = 0;
    for (const std::string name : {"MANIFEST", "rank-00000.h5", "rank-00001.h5", "index.h5"}) {
        const std::string path = folder + "/" + name;
        std::string text = text_of_file(path);
        ASSERT_GT(text.size(), 100u);
        std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
        for (std::size_t place = 0; place < text.size(); ++place, ++flips) {
            const auto put = [&](char letter) {
                file.seekp(static_cast<std::streamoff>(place));
                file.put(letter);
                file.flush();
            };
            put(static_cast<char>(text[place] ^ (1 << place % 8)));
            const std::string found = complaint(folder);
            ASSERT_TRUE(contains(found, path)) << name << " byte " << place << ": " << found;
            in_tensors += contains(found, "tensor '");
            put(text[place]);
        }
    }
    EXPECT_EQ(in_tensors, 4 * 6 * 4 * 2 + 2); // each byte of a tensor, and no other, is blamed on a tensor
    EXPECT_EQ(complaint(folder), "");
    RecordProperty("flips", std::to_string(flips));
}

TEST(CheckpointDamage, TruncatedMissingOrExchangedFilesAreFound) {
    const ScratchFolder scratch;
    const std::string folder = save_small(scratch.path(), 1), other = save_small(scratch.path(), 2);
    for (const std::string name : {"MANIFEST", "rank-00000.h5", "rank-00001.h5", "index.h5"}) {
        const std::string path = folder + "/" + name, text = text_of_file(path);
        for (std::size_t bytes = 0; bytes < text.size(); bytes += 64) {
            write_file(path, text.substr(0, bytes));
            ASSERT_TRUE(contains(complaint(folder), path)) << name << " cut to " << bytes;
        }
        fs::remove(path);
        EXPECT_TRUE(contains(complaint(folder), name)) << complaint(folder);
        EXPECT_EQ(newest_checkpoint(scratch.path()), other);
        if (name != "MANIFEST") {
            fs::create_symlink(other + "/" + name, path);
            EXPECT_TRUE(contains(complaint(folder), name + " is missing")) << complaint(folder);
            fs::remove(path);
            write_file(path, text_of_file(other + "/" + name));
            EXPECT_TRUE(contains(complaint(folder), path)) << "of another step: " << complaint(folder);
        }
        write_file(path, text);
        ASSERT_EQ(complaint(folder), "");
    }
    fs::rename(folder + "/rank-00000.h5", folder + "/a");
    fs::rename(folder + "/rank-00001.h5", folder + "/rank-00000.h5");
    fs::rename(folder + "/a", folder + "/rank-00001.h5");
    EXPECT_TRUE(contains(complaint(folder), folder + "/rank-0000")) << complaint(folder);
}

TEST(CheckpointDamage, AHostileManifestIsRefusedBeforeAnythingLargeIsAllocated) {
    const ScratchFolder scratch;
    const std::string folder = save_small(scratch.path(), 1), path = folder + "/MANIFEST";
    const std::string body = body_of(text_of_file(path));
    const auto field_of = [&](const std::string& line_start, int field) {
        std::istringstream line(body.substr(body.find(line_start)));
        std::string word;
        for (int i = 0; i <= field; ++i)
            line >> word;
        return word;
    };
    const std::string slab = body.substr(body.find("slab 0 (0,0) (2,6)"));
    const std::string slab_line = slab.substr(0, slab.find('\n') + 1);
    const std::string bytes = field_of("file rank-00000.h5", 2), place = field_of("slab 0 (0,0) (2,6)", 4);
    const std::vector<std::array<std::string, 3>> edits = {
        // from, to, what is said
        {"tessera-checkpoint 1", "tessera-checkpoint 2", "line 1: written in format 2, this build reads format 1"},
        {"tessera-checkpoint 1", "something 1", "line 1: this is not the MANIFEST of a checkpoint"},
        {"step 1\n", "step 99999999999999999999\n", "line 2: '99999999999999999999' cannot be the step"},
        {"step 1\n", "step -1\n", "line 2: '-1' cannot be the step"},
        {"ranks 2", "ranks 2000000000", "2 files for 2000000000 ranks"},
        {"ranks 2", "ranks 2 3", "line 3: '3' is left over"},
        {"ranks 2", "ranked 2", "line 3: unknown kind of line 'ranked'"},
        {"file rank-00000.h5", "file ../rank-00000.h5", "'../rank-00000.h5' cannot be a file name"},
        {"file rank-00000.h5", "file /etc/passwd", "'/etc/passwd' cannot be a file name"},
        {"file rank-00000.h5", "file a/rank-00000.h5", "leads to another folder"},
        {"tensor w f32 (4,6)", "tensor ../w f32 (4,6)", "'../w' cannot be a tensor name"},
        {"tensor w f32 (4,6)", "tensor w f64 (4,6)", "unknown dtype 'f64'"},
        {"tensor w f32 (4,6)", "tensor w f32 (4,6", "shape is not a list"},
        {"tensor w f32 (4,6)", "tensor w f32 (4611686018427387904,6)", "is too large"},
        {"tensor w f32 (4,6)", "tensor w f32 (1,1,1,1,1,4,6)", "shape has over 6 numbers"},
        {"tensor w f32 (4,6)", "tensor w f32 (1099511627776,6)", "elements are in no file"},
        {"tensor w f32 (4,6)", "tensor w f32 (5,6)", "tensor 'w' (5, 6): 6 of its 30 elements are in no file"},
        {"tensor w f32 (4,6)", "tensor w f32 (3,6)", "the slab (2, 6) at (2, 0) is not inside tensor 'w' (3, 6)"},
        {"tensor state/w", "tensor w", "tensor 'w' is there twice"},
        {"slab 0 (0,0) (2,6)", "slab 7 (0,0) (2,6)", "'7' cannot be the file"},
        {"slab 0 (0,0) (2,6)", "slab 0 (0,0) (2,3)", "tensor 'w' (4, 6): 6 of its 24 elements are in no file"},
        {"slab 0 (0,0) (2,6)", "slab 0 (0,0) (0,6)", "is not inside tensor 'w'"},
        {"slab 0 (0,0) (2,6)", "slab 0 (1,0) (2,6)", "tensor 'w' (4, 6): (2, 6) at (1, 0) in rank-00000.h5 and "},
        {"slab 0 (0,0) (2,6)", "slab 0 (9223372036854775807,0) (2,6)", "is not inside tensor 'w'"},
        {"slab 0 (0,0) (2,6) " + place, "slab 0 (0,0) (2,6) 9223372036854775807",
         "ends beyond the end of rank-00000.h5"},
        {"slab 0 (0,0) (2,6) " + place, "slab 0 (0,0) (2,6) 0", "damaged"},
        {"slab 0 (0,0) (2,6) " + place + " w", "slab 0 (0,0) (2,6) " + place + " ../w", "'../w' cannot be a dataset"},
        {"slab 0 (0,0) (2,6) " + place + " w", "slab 0 (0,0) (2,6) " + place + " v",
         "tensor 'w' (dataset v) is missing"},
        {slab_line, "", "tensor 'w' (4, 6): 12 of its 24 elements are in no file"},
        {slab_line, slab_line + slab_line, "tensors 'w' and 'w' share bytes of rank-00000.h5"},
        {"meta seed 7", "meta seed 7\\", "a backslash that escapes nothing"},
        {"meta seed 7", "meta ../seed 7", "'../seed' cannot be a metadata key"},
    };
    rusage before = {}, after = {};
    getrusage(RUSAGE_SELF, &before);
    for (const auto& [from, to, said] : edits) {
        write_file(path, sealed(replaced(body, from, to)));
        const std::string found = complaint(folder);
        EXPECT_TRUE(contains(found, said) && contains(found, folder)) << to << ": " << found;
    }
    write_file(path, sealed(replaced(body, bytes, "4611686018427387904")));
    EXPECT_TRUE(contains(complaint(folder), "MANIFEST states 4611686018427387904")) << complaint(folder);
    fs::resize_file(path, std::uintmax_t{1} << 40); // a hole of a terabyte
    EXPECT_TRUE(contains(complaint(folder), "which no MANIFEST has")) << complaint(folder);
    getrusage(RUSAGE_SELF, &after);
    EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 64 << 10); // KiB
    write_file(path, sealed(body));
    EXPECT_EQ(complaint(folder), "");
}

TEST(CheckpointDamage, AnHdf5FileThatLeadsElsewhereIsRefused) {
    if (std::system("/usr/bin/python3 -c 'import h5py' 2>/dev/null") != 0) GTEST_SKIP() << "python3-h5py is missing";
    const ScratchFolder scratch;
    write_file(scratch.path("craft.py"), R"(
import sys, h5py, numpy
kinds = ["external", "soft", "link", "virtual", "chunked", "group", "dtype", "shape", "moved"]
for kind in kinds:
    with h5py.File(f"{sys.argv[1]}/{kind}.h5", "w", libver=("v110", "v110")) as f:
        f.create_dataset("padding", data=numpy.arange(1000.0))
        if kind == "external":
            f.create_dataset("x", (4,), "<f4", external=[("/etc/passwd", 0, 16)])
        elif kind == "soft":
            f["x"] = h5py.SoftLink("/padding")
        elif kind == "link":
            f["x"] = h5py.ExternalLink("moved.h5", "/x")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((4,), "<f4")
            layout[:] = h5py.VirtualSource("moved.h5", "x", (4,))
            f.create_virtual_dataset("x", layout)
        elif kind == "chunked":
            f.create_dataset("x", data=numpy.zeros(4, "<f4"), chunks=(2,), compression="gzip")
        elif kind == "group":
            f.create_group("x")
        else:
            f["x"] = numpy.zeros(5 if kind == "shape" else 4, "<f8" if kind == "dtype" else "<f4")
)");
    ASSERT_EQ(std::system(("/usr/bin/python3 " + scratch.path("craft.py") + " " + scratch.path()).c_str()), 0);
    const std::map<std::string, std::string> said = {{"external", "is not stored in this file"},
                                                     {"soft", "is a link to elsewhere"},
                                                     {"link", "is a link to elsewhere"},
                                                     {"virtual", "is not stored in this file"},
                                                     {"chunked", "is not stored in this file"},
                                                     {"group", "is not a dataset"},
                                                     {"dtype", "has another type"},
                                                     {"shape", "has another shape"},
                                                     {"moved", "lies at another place"}};
    for (const auto& [kind, words] : said) {
        const std::string folder = scratch.path(kind);
        fs::create_directory(folder);
        fs::rename(folder + ".h5", folder + "/rank-00000.h5");
        write_file(folder + "/index.h5", "");
        const File file = File::open_to_read(folder + "/rank-00000.h5");
        const auto body = fmt::format("tessera-checkpoint 1\nstep 1\nranks 1\nindex index.h5 0 {:016x}\n"
                                      "file rank-00000.h5 {} {:016x}\ntensor x f32 (4)\nslab 0 (0) (4) 8 x {:016x}\n",
                                      Hash::of(nullptr, 0), file.bytes(), hash_outside(file, {{8, 24}}), 0);
        write_file(folder + "/MANIFEST", sealed(body));
        EXPECT_TRUE(contains(complaint(folder), words)) << kind << ": " << complaint(folder);
    }
}

TEST(CheckpointDamage, WhatTheModelWantsIsCompared) {
    const ScratchFolder scratch;
    const Checkpoint checkpoint(save_small(scratch.path(), 1));
    const auto said = [](const std::function<void()>& ask) -> std::string {
        try {
            ask();
            return "";
        } catch (const ConfigError& error) {
            return error.what();
        }
    };
    const std::string where = "checkpoint " + scratch.path("step-00000001") + ": ";
    std::vector<float> memory(100);
    EXPECT_EQ(said([&] { checkpoint.require("w", {4, 6}, DType::f32); }), "");
    EXPECT_EQ(said([&] {
                  checkpoint.require("w", {5, 6}, DType::f32);
              }),
              where + "tensor 'w' is (4, 6) f32, the model wants (5, 6) f32");
    EXPECT_EQ(said([&] {
                  checkpoint.require("w", {4, 6}, DType::bf16);
              }),
              where + "tensor 'w' is (4, 6) f32, the model wants (4, 6) bf16");
    EXPECT_EQ(said([&] {
                  checkpoint.read("state/v", {0, 0}, {memory.data(), {1, 1}, DType::i32});
              }),
              where + "no tensor named 'state/v'; did you mean 'state/w'?");
    EXPECT_EQ(said([&] {
                  checkpoint.read("w", {3, 0}, {memory.data(), {2, 6}, DType::f32});
              }),
              where + "tensor 'w' is (4, 6) f32, the model wants (2, 6) at (3, 0) f32");
    EXPECT_NE(said([&] { checkpoint.read("w", {-1, 0}, {memory.data(), {2, 6}, DType::f32}); }), "");
    EXPECT_NE(said([&] { checkpoint.read("w", {0}, {memory.data(), {4}, DType::f32}); }), "");
    EXPECT_NE(said([&] { checkpoint.read("w", {0, 0}, {memory.data(), {4, 6}, DType::i32}); }), "");
    EXPECT_TRUE(checkpoint.has("state/w"));
    EXPECT_FALSE(checkpoint.has("state"));
}

TEST(CheckpointDamage, BoxesThatDoNotCoverATensorOnceAreNotSaved) {
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

TEST(CheckpointDamage, AFolderThatCannotBeMadeIsSaidOnEveryRank) {
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
TEST(CheckpointDamage, AWriteThatFailsOnOneRankLeavesTheEarlierCheckpoint) {
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
TEST(CheckpointDamage, AKilledSaveLeavesAWholeCheckpoint) {
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
    std::int64_t newest = 0, replaced_in_time = 0;
    for (int attempt = 0; attempt < 30; ++attempt) {
        const pid_t child = fork();
        if (child == 0) {
            for (std::int32_t value = 1;; ++value) // each step three times
                save(newest + 1 + value / 3, value);
        }
        usleep(static_cast<useconds_t>(500 + attempt * 977));
        kill(child, SIGKILL);
        waitpid(child, nullptr, 0);
        std::vector<std::string> skipped;
        const std::string folder = newest_checkpoint(scratch.path(), &skipped);
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
