// SPDX-License-Identifier: Apache-2.0
// Ranks agree on the algorithms of a GPU's libraries: where one has none, all take a kernel of ours; what rank 0 has
// timed is kept and read again; text that is no choice is refused. The other ranks of a team are texts here.
#include "core/run/tuning.hpp"

#include "core/config_catalog.hpp"
#include "kernels/convolution.hpp"
#include "kernels/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tuning_test {
namespace {

using namespace tessera;

TEST(Tuning, ChoicesAreKeptAsText) {
    const LibraryChoices choices{{{0, 5, 7}, {-1}}, {{200, -3}, {1, -9223372036854775807 - 1}}};
    EXPECT_EQ(choices_in(text_of(choices), "file"), choices);
    EXPECT_EQ(choices_in("", "file"), LibraryChoices());
    for (const char* wrong : {"1 2 3\n", "1 : \n", " : 2\n", "1 x : 2\n", "1 : 2 y\n", "1 : 99999999999999999999\n",
                              "1 : 2 99999999999999999999\n", "1 : 3 -\n"})
        EXPECT_THROW(choices_in(wrong, "file"), ConfigError) << wrong;
}

#if TESSERA_CUDA
const Convolution filters{2, 5, 6, 16, 8, 1, {{.size = 3, .before = 1, .after = 1}, {.size = 3}}};

// Rank 0, with what another rank says.
LibraryAgreement agree(Stream& stream, const std::string& other) {
    const Team team{0, 2,
                    [&](const std::string& text) {
                        return std::vector{text, other};
                    },
                    [](const std::string& text) { return text; }, [](bool yes) { return yes; }};
    return agree_on_libraries(team, Config::parse("", "test", {}, known_keys()), stream, "nowhere");
}

TEST(Tuning, WantsEqualLibrariesOnAllRanks) {
    Stream stream = gpu_stream(0);
    const Team team{0, 2,
                    [](const std::string& text) {
                        return std::vector{text, std::string("another GPU")};
                    },
                    [](const std::string& text) { return text; }, [](bool yes) { return yes; }};
    const Config config = Config::parse("[run]\ntune = true\n", "test", {}, known_keys());
    EXPECT_THAT([&] { agree_on_libraries(team, config, stream, "nowhere"); },
                testing::ThrowsMessage<ConfigError>(testing::HasSubstr("rank 1 another GPU")));
}

TEST(Tuning, WhereOneRankHasNoPlanNoneHas) {
    Stream alone = gpu_stream(0), together = gpu_stream(0);
    for (Stream* stream : {&alone, &together}) {
        auto& gpu = std::get<CudaStream>(*stream);
        kernels::convolution_workspace_bytes(gpu, filters, DType::f32);
        kernels::convolution_input_gradient_workspace_bytes(gpu, filters, DType::f32);
    }
    const std::vector<ChoiceWords> asked = asked_of_libraries(alone);
    ASSERT_EQ(asked.size(), 2);
    EXPECT_EQ(agree(alone, "").warning, "");
    EXPECT_EQ(agree(together, text_of({{asked[0], by_our_kernel}, {{0, 1, 2}, by_our_kernel}})).warning, "");
    const LibraryChoices own = try_libraries(alone, asked), agreed = try_libraries(together, asked);
    EXPECT_NE(own.at(asked[0]), by_our_kernel);
    EXPECT_EQ(agreed.at(asked[0]), by_our_kernel);
    EXPECT_EQ(agreed.at(asked[1]), own.at(asked[1]));
}
#endif

} // namespace
} // namespace tuning_test
