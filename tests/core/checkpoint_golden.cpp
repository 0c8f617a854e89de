// SPDX-License-Identifier: Apache-2.0
// Checkpoints of every released format.
#include "core/checkpoint/checkpoint.hpp"
#include "tests/core/checkpoint_team.hpp"

#include <gtest/gtest.h>

using namespace tessera;
namespace fs = std::filesystem;

// What each released version of the format has written is readable for ever. The folders were made by save_small(…, 1);
// where one would have to be made anew, the format has changed, and needs another number.
TEST(Checkpoint, OfEveryFormatIsRead) {
    const fs::path golden = GOLDEN_FOLDER;
    for (const std::string version : {"format-1"}) {
        const std::string folder = (golden / version).string();
        ASSERT_EQ(complaint(folder), "");
        const Checkpoint checkpoint(folder);
        EXPECT_EQ(checkpoint.step(), 1);
        EXPECT_EQ(checkpoint.ranks(), 2);
        EXPECT_EQ(checkpoint.metadata(), (std::map<std::string, std::string>{{"seed", "7"}}));
        ASSERT_EQ(checkpoint.tensors().size(), 3u);
        BoxMemory w({0, 0}, {4, 6}, DType::f32), state({0, 0}, {4, 6}, DType::i32), s({}, {}, DType::bf16);
        checkpoint.read("w", w.start, w.view());
        checkpoint.read("state/w", state.start, state.view());
        checkpoint.read("s", s.start, s.view());
        EXPECT_EQ(wrong_elements({4, 6}, 1, w) + wrong_elements({4, 6}, 2, state) + wrong_elements({}, 3, s), 0);
    }
    // What this build writes is the newest of them, but for what libhdf5 decides.
    const ScratchFolder scratch;
    const auto kinds = [](const std::string& folder) {
        std::string words;
        for (const std::string& line : {text_of_file(folder + "/MANIFEST")})
            for (std::size_t at = 0; at < line.size(); at = line.find('\n', at) + 1)
                words += line.substr(at, line.find(' ', at) - at) + " ";
        return words;
    };
    EXPECT_EQ(kinds(save_small(scratch.path(), 1)), kinds((golden / "format-1").string()));
}
