// SPDX-License-Identifier: Apache-2.0
// Checkpoints that are not well: refused with a sentence that names the file, before anything large is allocated.
#include "core/checkpoint/checkpoint.hpp"
#include "core/checkpoint/durable_files.hpp"
#include "core/checkpoint/manifest.hpp"
#include "kernels/error.hpp"
#include "kernels/memory.hpp"
#include "tests/core/checkpoint_team.hpp"

#include <array>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

using namespace tessera;
namespace fs = std::filesystem;

namespace {

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

// Which two threads read, each its own.
TEST(CheckpointDamage, EveryBlockOfALargeTensorIsLookedAt) {
    const ScratchFolder scratch;
    const Shape whole{11, 1 << 18}; // a block is a row
    const Buffer memory(whole.count() * 4);
    save_checkpoint(team_of_one(), scratch.path(),
                    {1, {}, {{"w", whole, DType::f32, {0, 0}, {memory.data(), whole, DType::f32}}}});
    const std::string folder = newest_checkpoint(scratch.path()), path = folder + "/rank-00000.h5";
    const std::int64_t first = parse_manifest(text_of_file(folder + "/MANIFEST"), "M").tensors[0].slabs[0].first_byte;
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    ASSERT_EQ(complaint(folder), "");
    for (std::int64_t block = 0; block < 11; ++block)
        for (const char letter : {1, 0}) {
            file.seekp(first + block * (1 << 20) + 77 * block);
            file.put(letter);
            file.flush();
            const std::string expected = fmt::format("tensor 'w' is damaged: block {} of 11", block + 1);
            EXPECT_TRUE(letter == 0 ? complaint(folder).empty() : contains(complaint(folder), expected)) << block;
        }
}

TEST(CheckpointDamage, TruncatedMissingOrExchangedFilesAreFound) {
    const ScratchFolder scratch;
    const std::string folder = save_small(scratch.path(), 1), other = save_small(scratch.path(), 2);
    for (const std::string name : {"MANIFEST", "rank-00000.h5", "rank-00001.h5", "index.h5"}) {
        const std::string path = folder + "/" + name, text = text_of_file(path);
        for (std::size_t bytes = 0; bytes < text.size(); bytes += 11) {
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
            const bool same = text_of_file(path) == text; // an index says nothing of the step
            EXPECT_TRUE(same || contains(complaint(folder), path)) << "of another step: " << complaint(folder);
        }
        write_file(path, text);
        ASSERT_EQ(complaint(folder), "");
    }
    fs::rename(folder + "/rank-00000.h5", folder + "/a");
    fs::rename(folder + "/rank-00001.h5", folder + "/rank-00000.h5");
    fs::rename(folder + "/a", folder + "/rank-00001.h5");
    EXPECT_TRUE(contains(complaint(folder), folder + "/rank-0000")) << complaint(folder);
}

// What the system refuses says nothing about a checkpoint: a run that took it for damage would start from an older one,
// or anew.
TEST(CheckpointDamage, WhatCannotBeReadIsNeitherDamagedNorMissing) {
    const ScratchFolder scratch;
    const std::string folder = save_small(scratch.path(), 1), link = scratch.path("step-00000002");
    write_file(scratch.path("file"), "no folder");
    EXPECT_THROW(newest_checkpoint(scratch.path("file")), SystemError);

    fs::create_symlink(link, link); // a loop
    std::vector<std::string> skipped;
    EXPECT_THROW(newest_checkpoint(scratch.path(), &skipped), SystemError);
    EXPECT_EQ(skipped, std::vector<std::string>());
    EXPECT_THROW(remove_old_checkpoints(scratch.path(), {1, 0}), SystemError);
    fs::remove(link);
    EXPECT_EQ(newest_checkpoint(scratch.path()), folder);

    rlimit limit = {};
    getrlimit(RLIMIT_NOFILE, &limit);
    const rlimit none{0, limit.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
    EXPECT_THROW(newest_checkpoint(scratch.path()), SystemError);
    EXPECT_THROW(Checkpoint{folder}, SystemError); // MANIFEST does not open
    setrlimit(RLIMIT_NOFILE, &limit);
    EXPECT_EQ(newest_checkpoint(scratch.path()), folder);
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

// A crafted HDF5 file can lead libhdf5 to any other file of the system. What is read here is where MANIFEST says.
TEST(CheckpointDamage, AnHdf5FileThatLeadsElsewhereLeadsNowhere) {
    const ScratchFolder scratch;
    const std::string folder = save_small(scratch.path(), 1), path = folder + "/rank-00000.h5";
    write_file(scratch.path("secret"), std::string(4096, 's'));
    const std::string text = text_of_file(path);
    fs::rename(path, scratch.path("real"));
    for (const char* target : {"secret", "real"}) {
        fs::create_symlink(scratch.path(target), path);
        EXPECT_TRUE(contains(complaint(folder), "rank-00000.h5 is missing")) << complaint(folder);
        fs::remove(path);
    }
    const std::string crafted = R"(
import sys, h5py
with h5py.File(sys.argv[1], "w", libver=("v110", "v110")) as file:
    file.create_dataset("w", (2, 6), "<f4", external=[(sys.argv[2], 0, 48)])
    file["state/w"] = h5py.ExternalLink(sys.argv[2], "/x")
)";
    write_file(scratch.path("craft.py"), crafted);
    if (std::system("/usr/bin/python3 -c 'import h5py' 2>/dev/null") != 0) GTEST_SKIP() << "python3-h5py is missing";
    const std::string command = fmt::format("/usr/bin/python3 {} {} {}", scratch.path("craft.py"), path, "/etc/passwd");
    ASSERT_EQ(std::system(command.c_str()), 0);
    const std::int64_t bytes = File::open_to_read(path).bytes();
    const std::uint64_t hash = hash_outside(File::open_to_read(path), {{8, 56}});
    const std::string data = text_of_file(path).substr(8, 48);
    const std::string index = text_of_file(folder + "/index.h5");
    write_file(folder + "/MANIFEST",
               sealed(fmt::format("tessera-checkpoint 1\nstep 1\nranks 1\nindex index.h5 {} {:016x}\n"
                                  "file rank-00000.h5 {} {:016x}\ntensor w f32 (2,6)\n"
                                  "slab 0 (0,0) (2,6) 8 w {:016x}\n",
                                  index.size(), Hash::of(index.data(), static_cast<std::int64_t>(index.size())), bytes,
                                  hash, Hash::of(data.data(), 48))));
    ASSERT_EQ(complaint(folder), "");
    std::string found(48, ' ');
    Checkpoint(folder).read("w", {0, 0}, {found.data(), {2, 6}, DType::f32});
    EXPECT_EQ(found, data); // bytes of the file itself
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
