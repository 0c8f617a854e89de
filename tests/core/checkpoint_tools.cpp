// SPDX-License-Identifier: Apache-2.0
// Saving, comparing, averaging and checking checkpoints a piece at a time, on small ones whose numbers are known.
#include "core/checkpoint/average.hpp"
#include "core/checkpoint/damage.hpp"
#include "core/checkpoint/describe.hpp"
#include "core/checkpoint/difference.hpp"
#include "core/checkpoint/streamed_save.hpp"
#include "core/visible.hpp"
#include "tests/core/checkpoint_team.hpp"

#include <cmath>
#include <gtest/gtest.h>
#include <limits>

using namespace tessera;
namespace fs = std::filesystem;

namespace {

TensorSource floats(const std::string& name, const Shape& shape, std::vector<float> values, DType dtype = DType::f32) {
    return {{name, shape, dtype}, [values, dtype](const TensorPiece& piece, const View& part) {
                for (std::int64_t i = 0; i < part.count(); ++i) {
                    const float value = values[static_cast<std::size_t>(piece.first + i)];
                    if (dtype == DType::bf16)
                        part.as<BFloat16>()[i] = BFloat16(value);
                    else
                        part.as<float>()[i] = value;
                }
            }};
}

std::vector<float> read_floats(const Checkpoint& checkpoint, const std::string& name, const Shape& shape) {
    std::vector<float> values(static_cast<std::size_t>(shape.count()));
    checkpoint.read(name, std::vector<std::int64_t>(static_cast<std::size_t>(shape.rank()), 0),
                    {values.data(), shape, DType::f32});
    return values;
}

std::string refusal(const std::function<void()>& work) {
    try {
        work();
        return "";
    } catch (const ConfigError& error) {
        return error.what();
    }
}

} // namespace

TEST(CheckpointTools, PiecesCoverATensorInOrder) {
    for (const Shape& shape : {Shape{}, Shape{7}, Shape{3, 5}, Shape{2, 3, 5'000'000}, Shape{9'000'001}}) {
        std::int64_t next = 0;
        for (const TensorPiece& piece : pieces_of(shape, DType::bf16)) {
            EXPECT_EQ(piece.first, next);
            EXPECT_LE(piece.box.count.count() * 2, 16 << 20);
            next += piece.box.count.count();
        }
        EXPECT_EQ(next, shape.count()) << shape.text();
    }
    EXPECT_TRUE(pieces_of({3, 0}, DType::f32).empty());
}

TEST(CheckpointTools, WhatIsSavedInPiecesIsACheckpointLikeAnother) {
    const ScratchFolder scratch;
    const std::string folder = scratch.path("run/checkpoints");
    const std::vector<TensorSource> sources{floats("w", {2, 3}, {1, 2, 3, 4, 5, 6}), floats("none", {0, 4}, {}),
                                            floats("s", {}, {0.5f}, DType::bf16)};
    const std::string path = save_in_pieces(folder, 7, {{"seed", "3"}}, sources);
    EXPECT_EQ(path, folder + "/step-00000007");
    EXPECT_EQ(complaint(path), "");
    const Checkpoint checkpoint(path);
    EXPECT_EQ(checkpoint.step(), 7);
    EXPECT_EQ(checkpoint.metadata().at("seed"), "3");
    EXPECT_EQ(read_floats(checkpoint, "w", {2, 3}), (std::vector<float>{1, 2, 3, 4, 5, 6}));
    EXPECT_TRUE(checkpoint.has("none"));
    EXPECT_TRUE(contains(refusal([&] { save_in_pieces(folder, 7, {}, sources); }), "is there already"));
    const TensorSource failing{{"w", {2}, DType::f32},
                               [](const TensorPiece&, const View&) { throw ConfigError("cannot be read"); }};
    EXPECT_EQ(refusal([&] { save_in_pieces(folder, 8, {}, {sources[0], failing}); }), "cannot be read");
    EXPECT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator()), 1) << "something is left";
}

TEST(CheckpointTools, DifferencesAreMeasuredAndNamed) {
    const float nan = std::nanf("");
    const ScratchFolder scratch;
    const Checkpoint a(save_in_pieces(scratch.path("a"), 1, {{"x", "1"}, {"only", "a"}},
                                      {floats("same", {2}, {nan, 1}), floats("w", {2, 3}, {1, 2, 3, 4, 5, 6}),
                                       floats("n", {2}, {1, 1}), floats("b", {2}, {1, 1}, DType::bf16),
                                       floats("shape", {2}, {0, 0}), floats("here", {1}, {0})}));
    const Checkpoint b(save_in_pieces(scratch.path("b"), 2, {{"x", "2"}},
                                      {floats("w", {2, 3}, {1, 2, 3.5f, 4, 5, 9}), floats("same", {2}, {nan, 1}),
                                       floats("n", {2}, {1, nan}), floats("b", {2}, {-1, 1}, DType::bf16),
                                       floats("shape", {1, 2}, {0, 0}), floats("there", {1}, {0})}));
    const std::vector<TensorDifference> found = compare(a, b);
    ASSERT_EQ(found.size(), 6u);
    EXPECT_EQ(found[0].name, "w");
    EXPECT_EQ(found[0].elements, 2);
    EXPECT_EQ(found[0].first, (std::vector<std::int64_t>{0, 2}));
    EXPECT_EQ(found[0].largest_at, (std::vector<std::int64_t>{1, 2}));
    EXPECT_DOUBLE_EQ(found[0].largest_absolute, 3);
    EXPECT_DOUBLE_EQ(found[0].largest_relative, 3.0 / 9);
    EXPECT_EQ(found[0].in_b, 3.5);
    EXPECT_EQ(found[1].largest_absolute, std::numeric_limits<double>::infinity()) << "a number and none";
    EXPECT_EQ(found[2].name, "b");
    EXPECT_EQ(found[2].largest_relative, 2);
    EXPECT_EQ(found[3].reason, "(2) f32 in " + a.folder() + ", (1, 2) f32 in " + b.folder());
    EXPECT_EQ(found[4].reason, "only in " + a.folder());
    EXPECT_EQ(found[5].name + found[5].reason, "thereonly in " + b.folder());
    const std::string text = describe_differences(a, b, found, 2);
    EXPECT_EQ(text, "w: 2 of 6 elements differ, by at most 3 at (1, 2), relative 0.333\n"
                    "  the first at (0, 2): 3 and 3.5\n"
                    "n: 1 of 2 elements differ, by at most inf at (1), relative inf\n"
                    "… and 4 more\n"
                    "beside the tensors: step (1 and 2), only, x\n"
                    "6 of 6 tensors differ\n");
    EXPECT_TRUE(compare(a, a).empty());
}

TEST(CheckpointTools, AveragesAreMeansOfTheLatestOnesTensors) {
    const ScratchFolder scratch;
    const std::string state = "optimizer.first_moment/w", scale = "optimizer.loss_scale";
    std::vector<Checkpoint> checkpoints;
    for (const std::int64_t step : {3, 9, 6}) {
        const auto number = static_cast<float>(step);
        checkpoints.emplace_back(save_in_pieces(scratch.path("in"), step, {{"seed", std::to_string(step)}},
                                                {floats("w", {2}, {number, 1}), floats("h", {1}, {number}, DType::bf16),
                                                 floats(state, {2}, {number, 0}), floats(scale, {}, {number})}));
    }
    const Averaged weights = average_checkpoints(checkpoints, scratch.path("weights"), false);
    EXPECT_EQ(weights.left_out, (std::vector<std::string>{state, scale}));
    const Checkpoint mean(weights.folder);
    EXPECT_EQ(mean.step(), 9);
    EXPECT_EQ(mean.metadata().at("seed"), "9");
    EXPECT_EQ(read_floats(mean, "w", {2}), (std::vector<float>{6, 1}));
    EXPECT_FALSE(mean.has(state));
    BFloat16 half;
    mean.read("h", {0}, {&half, {1}, DType::bf16});
    EXPECT_EQ(static_cast<float>(half), 6);
    const Averaged all = average_checkpoints(checkpoints, scratch.path("all"), true);
    EXPECT_EQ(all.taken, std::vector<std::string>{scale});
    EXPECT_EQ(read_floats(Checkpoint(all.folder), state, {2}), (std::vector<float>{6, 0}));
    EXPECT_EQ(read_floats(Checkpoint(all.folder), scale, {}), std::vector<float>{9});
    checkpoints.emplace_back(save_in_pieces(scratch.path("in"), 1, {}, {floats("w", {3}, {1, 1, 1})}));
    EXPECT_TRUE(contains(refusal([&] { average_checkpoints(checkpoints, scratch.path("no"), false); }),
                         "tensor 'w' is (3) f32, the model wants (2) f32"));
    EXPECT_FALSE(fs::exists(scratch.path("no")));
}

TEST(CheckpointTools, AllDamageIsNamedAndNoTerminalObeysIt) {
    const ScratchFolder scratch;
    const std::string path =
        save_in_pieces(scratch.path(), 1, {{"note", "\033]0;owned\007 and \xc2\x9b"}},
                       {floats("v", {2}, {11, 12}), floats("w", {2}, {13, 14}), floats("x", {2}, {15, 16})});
    EXPECT_TRUE(damage_of(path).empty());
    EXPECT_TRUE(contains(describe(Checkpoint(path)), "\\x1b]0;owned\\x07 and \xc2\\x9b"));
    std::string bytes = text_of_file(path + "/rank-00000.h5");
    for (const float value : {11.0f, 16.0f}) {
        const std::string raw(reinterpret_cast<const char*>(&value), 4);
        const std::size_t place = bytes.find(raw);
        ASSERT_NE(place, std::string::npos);
        bytes[place] ^= 1;
    }
    write_file(path + "/rank-00000.h5", bytes);
    const std::vector<std::string> found = damage_of(path);
    ASSERT_EQ(found.size(), 2u);
    EXPECT_TRUE(contains(found[0], "tensor 'v' is damaged") && contains(found[1], "tensor 'x' is damaged"));
    fs::remove(path + "/rank-00000.h5");
    EXPECT_EQ(damage_of(path).size(), 1u);
    EXPECT_EQ(damage_of(scratch.path("nowhere")).size(), 1u);
    EXPECT_EQ(visible("a\tb\n\033[31m\177é"), "a\tb\n\\x1b[31m\\x7fé");
}
