// SPDX-License-Identifier: Apache-2.0
// Checkpoints that are well: saved on N ranks, read on M in other boxes, replaced, kept, described, read by h5py.
#include "core/checkpoint/checkpoint.hpp"
#include "core/checkpoint/describe.hpp"
#include "core/checkpoint/tensor_box.hpp"
#include "kernels/error.hpp"
#include "kernels/memory.hpp"
#include "tests/core/checkpoint_team.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <random>

using namespace tessera;
namespace fs = std::filesystem;

namespace {

const std::vector<SavedTensor> catalog = {
    {"scale", {}, DType::f32},
    {"layers.0.norm.bias", {7}, DType::f32},
    {"embedding.weight", {65, 12}, DType::bf16},
    {"optimizer.first_moment/layers.0.attention.qkv.weight", {3, 4, 5, 6}, DType::f32},
    {"positions", {5, 3, 2}, DType::i32},
    {"stencil", {2, 3, 2, 5, 3}, DType::bf16},
    {"nothing", {0, 4}, DType::f32},
};

// Cuts a box at random planes until there are `pieces`; pieces may be empty.
std::vector<TensorBox> random_cut(const Shape& whole, int pieces, std::mt19937& random) {
    std::vector<TensorBox> boxes = {whole_box(whole)};
    while (static_cast<int>(boxes.size()) < pieces) {
        TensorBox& box = boxes[random() % boxes.size()];
        TensorBox other = box;
        if (whole.rank() == 0) { // it cannot be cut: the others get a box of nothing
            other.count = Shape{0};
            other.start = {0};
        } else {
            const int dim = static_cast<int>(random() % static_cast<unsigned>(whole.rank()));
            const auto first = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(box.count[dim] + 1));
            other.start[static_cast<std::size_t>(dim)] += first;
            other.count.set(dim, box.count[dim] - first);
            box.count.set(dim, first);
        }
        boxes.push_back(other);
    }
    std::shuffle(boxes.begin(), boxes.end(), random);
    return boxes;
}

using Cut = std::vector<std::vector<TensorBox>>; // by tensor, by rank

Cut cut_catalog(int ranks, unsigned seed) {
    std::mt19937 random(seed);
    Cut cut;
    for (const SavedTensor& tensor : catalog)
        cut.push_back(random_cut(tensor.whole, ranks, random));
    return cut;
}

void save_catalog(const Team& team, const std::string& folder, std::int64_t step, const Cut& cut) {
    CheckpointContent content;
    content.step = step;
    if (team.rank == 0) content.metadata = {{"config", "[model]\nlayers = 2 # \\n is no new line\n"}, {"seed", "7"}};
    std::vector<BoxMemory> memory;
    for (std::size_t i = 0; i < catalog.size(); ++i) {
        const TensorBox& box = cut[i][static_cast<std::size_t>(team.rank)];
        memory.emplace_back(box.start, box.count, catalog[i].dtype);
        if (box.count.count() > 0) fill(catalog[i].whole, static_cast<std::uint32_t>(i + 1), memory.back());
        content.tensors.push_back(
            {catalog[i].name, catalog[i].whole, catalog[i].dtype, box.start, memory.back().view()});
    }
    save_checkpoint(team, folder, content);
}

void expect_none_failed(const std::vector<std::string>& failures) {
    EXPECT_EQ(failures, std::vector<std::string>(failures.size()));
}

} // namespace

TEST(Checkpoint, IsReadInAnyBoxesByAnyNumberOfRanks) {
    for (int writers = 1; writers <= 4; ++writers)
        for (int readers = 1; readers <= 4; ++readers) {
            const ScratchFolder scratch;
            const unsigned seed = static_cast<unsigned>(writers * 10 + readers);
            const Cut written = cut_catalog(writers, seed), wanted = cut_catalog(readers, seed + 1000);
            expect_none_failed(
                run_team(writers, [&](const Team& team) { save_catalog(team, scratch.path("c"), 500, written); }));
            expect_none_failed(run_team(readers, [&](const Team& team) {
                const Checkpoint checkpoint(scratch.path("c/step-00000500"));
                if (checkpoint.step() != 500 || checkpoint.ranks() != writers) throw InternalError("step or ranks");
                if (checkpoint.metadata().at("config") != "[model]\nlayers = 2 # \\n is no new line\n")
                    throw InternalError("metadata");
                for (std::size_t i = 0; i < catalog.size(); ++i) {
                    checkpoint.require(catalog[i].name, catalog[i].whole, catalog[i].dtype);
                    const TensorBox& box = wanted[i][static_cast<std::size_t>(team.rank)];
                    if (box.count.rank() != catalog[i].whole.rank()) continue; // the empty part of a scalar
                    BoxMemory memory(box.start, box.count, catalog[i].dtype);
                    checkpoint.read(catalog[i].name, box.start, memory.view());
                    if (box.count.count() == 0) continue;
                    if (wrong_elements(catalog[i].whole, static_cast<std::uint32_t>(i + 1), memory) != 0)
                        throw InternalError("wrong values in " + catalog[i].name);
                }
                checkpoint.verify();
            }));
        }
}

// What is written from where it lies, what is gathered first, and what is a part of a page, side by side.
TEST(Checkpoint, LargeAndSmallTensorsLieSideBySide) {
    constexpr std::int64_t large = (1 << 20) / 4; // elements
    const std::vector<std::int64_t> sizes{1,         large,     3, large * 5 + 1, large - 1, 1024, 17, large * 4, 2,
                                          large * 2, large + 5, 7, large * 9,     1000000,   5};
    for (const std::int64_t shift : {0, 4}) { // bytes by which memory is off a page
        const ScratchFolder scratch;
        std::vector<Buffer> memory;
        CheckpointContent content{1, {{"config", "x"}}, {}};
        for (const std::int64_t size : sizes) {
            const auto number = static_cast<std::uint32_t>(memory.size());
            auto* const data = reinterpret_cast<std::uint32_t*>(memory.emplace_back(size * 4 + shift).data() + shift);
            for (std::int64_t i = 0; i < size; ++i)
                data[i] = element_bits(number, i);
            content.tensors.push_back(
                {fmt::format("t{}", number), {size}, DType::f32, {0}, ConstView(data, {size}, DType::f32)});
        }
        save_checkpoint(team_of_one(), scratch.path(), content);
        const Checkpoint checkpoint(newest_checkpoint(scratch.path()));
        EXPECT_EQ(complaint(checkpoint.folder()), "");
        for (const TensorPart& part : content.tensors) {
            const Buffer read(part.data.bytes());
            checkpoint.read(part.name, {0}, View(read.data(), part.whole, DType::f32));
            EXPECT_EQ(std::memcmp(read.data(), part.data.data, static_cast<std::size_t>(read.bytes())), 0) << part.name;
        }
    }
}

TEST(Checkpoint, ReadsOnlyTheBlocksOfTheBox) {
    const ScratchFolder scratch;
    const Shape whole{6, 700, 1024}; // 16.4 MiB: no slab fits into one block
    expect_none_failed(run_team(2, [&](const Team& team) {
        BoxMemory memory({team.rank * 3, 0, 0}, {3, 700, 1024}, DType::f32);
        fill(whole, 1, memory);
        save_checkpoint(team, scratch.path(), {3, {}, {{"big", whole, DType::f32, memory.start, memory.view()}}});
    }));
    const Checkpoint checkpoint(scratch.path("step-00000003"));
    BoxMemory row({4, 17, 5}, {1, 2, 1000}, DType::f32);
    checkpoint.read("big", row.start, row.view());
    EXPECT_EQ(wrong_elements(whole, 1, row), 0);
    EXPECT_GT(checkpoint.bytes_read(), 0);
    EXPECT_LE(checkpoint.bytes_read(), 1 << 20);
    BoxMemory column({1, 0, 1023}, {4, 700, 1}, DType::f32);
    checkpoint.read("big", column.start, column.view());
    EXPECT_EQ(wrong_elements(whole, 1, column), 0);
    fs::remove(scratch.path("step-00000003/rank-00001.h5")); // open already: still readable here …
    checkpoint.read("big", row.start, row.view());
    EXPECT_THROW(Checkpoint(scratch.path("step-00000003")), ConfigError); // … but no checkpoint any more
}

// Each rank of a run reads a checkpoint of as many files as ranks wrote it, and may have 1024 files open.
TEST(Checkpoint, OfManyRanksIsReadWithFewOpenFiles) {
    const ScratchFolder scratch;
    constexpr int ranks = 70;
    const Shape whole{ranks, 3};
    expect_none_failed(run_team(ranks, [&](const Team& team) {
        BoxMemory memory({team.rank, 0}, {1, 3}, DType::f32);
        fill(whole, 1, memory);
        save_checkpoint(team, scratch.path(), {3, {}, {{"x", whole, DType::f32, memory.start, memory.view()}}});
    }));
    const auto open_files = [] { return std::distance(fs::directory_iterator("/proc/self/fd"), {}); };
    const auto before = open_files();
    const Checkpoint checkpoint(scratch.path("step-00000003"));
    const auto read_rows = [&](std::int64_t first, std::int64_t rows) {
        BoxMemory memory({first, 0}, {rows, 3}, DType::f32);
        checkpoint.read("x", memory.start, memory.view());
        EXPECT_EQ(wrong_elements(whole, 1, memory), 0) << first;
    };
    read_rows(0, 2);
    EXPECT_EQ(open_files(), before + 2); // one per file
    for (int time = 0; time < 2; ++time) {
        read_rows(0, ranks);
        EXPECT_EQ(open_files(), before + 64);
    }
    read_rows(5, 1); // closed in between
    checkpoint.verify();
    EXPECT_EQ(open_files(), before + 64);
}

TEST(Checkpoint, BlocksCoverABoxInOrder) {
    for (const Shape& shape : {Shape{}, Shape{5}, Shape{3, 2000000}, Shape{2, 3, 1500, 1024}, Shape{1500000, 1, 2},
                               Shape{2, 2, 1, 1100000}}) {
        const Blocks blocks(shape, DType::f32);
        std::int64_t bytes = 0;
        for (std::int64_t block = 0; block < blocks.size(); ++block) {
            const TensorBox box = blocks.box(block);
            std::int64_t place = 0;
            for (int dim = 0; dim < shape.rank(); ++dim)
                place = place * shape[dim] + box.start[static_cast<std::size_t>(dim)];
            ASSERT_EQ(place * 4, bytes) << shape.text() << " block " << block;
            ASSERT_EQ(blocks.first_byte(block), bytes);
            ASSERT_LE(box.count.count() * 4, 1 << 20);
            bytes += box.count.count() * 4;
        }
        EXPECT_EQ(bytes, shape.count() * 4);
    }
}

TEST(Checkpoint, SeveralBoxesOfOneTensorOnOneRank) {
    const ScratchFolder scratch;
    BoxMemory head({0, 3}, {1, 2}, DType::i32), tail({1, 0}, {2, 5}, DType::i32), first({0, 0}, {1, 3}, DType::i32);
    const Shape whole{3, 5};
    CheckpointContent content;
    for (BoxMemory* part : {&head, &tail, &first}) {
        fill(whole, 9, *part);
        content.tensors.push_back({"flat", whole, DType::i32, part->start, part->view()});
    }
    save_checkpoint(team_of_one(), scratch.path(), content);
    BoxMemory all({0, 0}, whole, DType::i32);
    Checkpoint(scratch.path("step-00000000")).read("flat", all.start, all.view());
    EXPECT_EQ(wrong_elements(whole, 9, all), 0);
}

TEST(Checkpoint, SavingTheSameStepAgainReplacesIt) {
    const ScratchFolder scratch;
    for (float value : {1.0f, 2.0f}) {
        const CheckpointContent content{8, {}, {{"x", {1}, DType::f32, {0}, {&value, {1}, DType::f32}}}};
        save_checkpoint(team_of_one(), scratch.path(), content);
        float found = 0;
        Checkpoint(scratch.path("step-00000008")).read("x", {0}, {&found, {1}, DType::f32});
        EXPECT_EQ(found, value);
        EXPECT_EQ(std::distance(fs::directory_iterator(scratch.path()), {}), 1); // nothing else is left
    }
}

TEST(Checkpoint, LeftoversOfAnInterruptedSaveAreIgnoredAndRemoved) {
    const ScratchFolder scratch;
    EXPECT_EQ(newest_checkpoint(scratch.path()), "");
    EXPECT_EQ(newest_checkpoint(scratch.path("never/made")), "");
    const CheckpointContent first{1, {}, {}};
    save_checkpoint(team_of_one(), scratch.path(), first);
    fs::copy(scratch.path("step-00000001"), scratch.path(".tmp-step-00000009"));
    fs::copy(scratch.path("step-00000001"), scratch.path(".del-step-00000000"));
    fs::copy(scratch.path("step-00000001"), scratch.path(".del-old-step-00000003"));
    fs::create_directory(scratch.path(".del-notes"));    // somebody's
    fs::create_directory(scratch.path("step-00000007")); // no MANIFEST
    write_file(scratch.path("step-final"), "somebody's file");
    std::vector<std::string> skipped;
    EXPECT_EQ(newest_checkpoint(scratch.path(), &skipped), scratch.path("step-00000001"));
    ASSERT_EQ(skipped.size(), 1u);
    EXPECT_EQ(skipped[0], scratch.path("step-00000007") + " is not a complete checkpoint: it has no MANIFEST");
    save_checkpoint(team_of_one(), scratch.path(), {2, {}, {}});
    EXPECT_FALSE(fs::exists(scratch.path(".tmp-step-00000009")));
    EXPECT_FALSE(fs::exists(scratch.path(".del-step-00000000")));
    EXPECT_FALSE(fs::exists(scratch.path(".del-old-step-00000003")));
    EXPECT_TRUE(fs::exists(scratch.path(".del-notes")));
    EXPECT_TRUE(fs::exists(scratch.path("step-final")));
}

TEST(Checkpoint, OldOnesGoButNeverTheOnlyOne) {
    const ScratchFolder scratch;
    for (const std::int64_t step : {5, 99999999, 100000000, 20})
        save_checkpoint(team_of_one(), scratch.path(), {step, {}, {}});
    fs::create_directory(scratch.path("step-200000000")); // newer, but no checkpoint: it does not count
    remove_old_checkpoints(scratch.path(), {0, 0});
    EXPECT_TRUE(fs::exists(scratch.path("step-00000005")));
    remove_old_checkpoints(scratch.path(), {2, 10});
    EXPECT_TRUE(fs::exists(scratch.path("step-99999999")));
    EXPECT_TRUE(fs::exists(scratch.path("step-00000020"))); // 10 divides it
    EXPECT_FALSE(fs::exists(scratch.path("step-00000005")));
    EXPECT_EQ(newest_checkpoint(scratch.path()), scratch.path("step-100000000"));
    remove_old_checkpoints(scratch.path(), {1, 0, {0, 3}});
    EXPECT_TRUE(fs::exists(scratch.path("step-99999999"))); // the newest that 3 divides
    EXPECT_FALSE(fs::exists(scratch.path("step-00000020")));
    remove_old_checkpoints(scratch.path(), {1, 0});
    EXPECT_FALSE(fs::exists(scratch.path("step-99999999")));
    EXPECT_FALSE(fs::exists(scratch.path("step-00000020")));
    EXPECT_EQ(newest_checkpoint(scratch.path()), scratch.path("step-100000000"));
}

TEST(Checkpoint, MetadataIsAnyText) {
    const ScratchFolder scratch;
    std::string bytes, long_text;
    for (int letter = 0; letter < 256; ++letter)
        bytes += static_cast<char>(letter);
    for (int line = 0; line < 100000; ++line)
        long_text += "merge " + std::to_string(line) + "\n";
    const std::map<std::string, std::string> metadata = {
        {"bytes", bytes}, {"empty", ""}, {"tokenizer", long_text}, {"blank", "  two  "}, {"data.position", "\\x41\\"}};
    save_checkpoint(team_of_one(), scratch.path(), {1, metadata, {}});
    EXPECT_EQ(Checkpoint(scratch.path("step-00000001")).metadata(), metadata);
}

TEST(Checkpoint, IsDescribed) {
    const ScratchFolder scratch;
    std::vector<float> weight(600 * 1024);
    const std::int32_t count = 3;
    save_checkpoint(team_of_one(), scratch.path(),
                    {12,
                     {{"config", "[run]\nsteps = 5\n"}, {"seed", "7"}},
                     {{"head.weight", {600, 1024}, DType::f32, {0, 0}, {weight.data(), {600, 1024}, DType::f32}},
                      {"n", {}, DType::i32, {}, {&count, {}, DType::i32}}}});
    const std::string folder = scratch.path("step-00000012");
    EXPECT_EQ(describe(Checkpoint(folder)), "checkpoint " + folder +
                                                "\n"
                                                "step 12, written by 1 rank, 2 tensors, 2.344 MiB\n"
                                                "\n"
                                                "tensor             shape  dtype        MiB\n"
                                                "head.weight  (600, 1024)  f32        2.344\n"
                                                "n                     ()  i32        0.000\n"
                                                "\n"
                                                "config  (16 bytes, 2 lines)\n"
                                                "seed    7\n"
                                                "\n"
                                                "config:\n"
                                                "[run]\n"
                                                "steps = 5\n");
}

// The index is a second way to the data, written by one library and read by another: h5py must see what was saved.
TEST(Checkpoint, H5pyAndH5dumpReadTheMovedFolder) {
    if (std::system("/usr/bin/python3 -c 'import h5py' 2>/dev/null") != 0) GTEST_SKIP() << "python3-h5py is missing";
    const ScratchFolder scratch;
    const Cut cut = cut_catalog(3, 5);
    expect_none_failed(run_team(3, [&](const Team& team) { save_catalog(team, scratch.path("c"), 500, cut); }));
    fs::create_directory(scratch.path("elsewhere"));
    fs::rename(scratch.path("c/step-00000500"), scratch.path("elsewhere/moved"));
    write_file(scratch.path("read.py"), R"(
import sys, h5py, numpy
file = h5py.File(sys.argv[1], "r")
assert file["metadata/step"][()] == 500 and file.attrs["ranks"][0] == 3
assert file["metadata/config"][()].decode() == "[model]\nlayers = 2 # \\n is no new line\n"
names = []
file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
for name in names:
    data = file[name]
    values = data[()]
    if data.id.get_type().get_size() == 2:  # bf16, which h5py widens to float32
        assert values.dtype == numpy.float32
        bits = values.view(numpy.uint32) >> 16
    else:
        bits = values.view(numpy.uint32)
    print(name, ",".join(map(str, data.shape)), " ".join(map(str, numpy.ravel(bits))), sep="|")
)");
    const std::string command = "cd / && /usr/bin/python3 " + scratch.path("read.py") + " " +
                                scratch.path("elsewhere/moved/index.h5") + " > " + scratch.path("seen");
    ASSERT_EQ(std::system(command.c_str()), 0);
    std::string expected;
    std::vector<std::size_t> order(catalog.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),
              [](std::size_t a, std::size_t b) { return catalog[a].name < catalog[b].name; });
    for (const std::size_t i : order) {
        const SavedTensor& tensor = catalog[i];
        std::vector<std::int64_t> sizes;
        for (int dim = 0; dim < tensor.whole.rank(); ++dim)
            sizes.push_back(tensor.whole[dim]);
        std::vector<std::uint32_t> values;
        for (std::int64_t place = 0; place < tensor.whole.count(); ++place)
            values.push_back(element_bits(static_cast<std::uint32_t>(i + 1), place) &
                             (tensor.dtype == DType::bf16 ? 0xffffu : 0xffffffffu));
        expected += fmt::format("{}|{}|{}\n", tensor.name, fmt::join(sizes, ","), fmt::join(values, " "));
    }
    EXPECT_EQ(text_of_file(scratch.path("seen")), expected);

    if (std::system("h5dump --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "h5dump (hdf5-tools) is missing";
    const std::string dump = "cd / && h5dump -y -w 1 -d /positions " + scratch.path("elsewhere/moved/index.h5") +
                             " > " + scratch.path("dump");
    ASSERT_EQ(std::system(dump.c_str()), 0);
    const std::string dumped = text_of_file(scratch.path("dump"));
    for (std::int64_t place = 0; place < 30; ++place)
        EXPECT_NE(dumped.find(std::to_string(static_cast<std::int32_t>(element_bits(5, place)))), std::string::npos);
}
