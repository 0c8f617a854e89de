// SPDX-License-Identifier: Apache-2.0
// Rows chosen from a table, and the sum that is its gradient.
#include "kernels/embedding.hpp"

#include "kernels/error.hpp"
#include "tests/support/sample.hpp"

using namespace tessera;

namespace {

constexpr DType types[] = {DType::f32, DType::bf16};
constexpr std::int64_t widths[] = {1, 15, 16, 17, 129};

} // namespace

TEST(Embedding, CopiesTheRowsOfItsTokens) {
    CpuStream stream(2);
    for (const DType from : types)
        for (const DType to : types)
            for (const std::int64_t columns : widths) {
                const Sample tokens(Shape{3, 11}, DType::i32, 1, 0, 7), table(Shape{7, columns}, from, 2);
                const Sample y(Shape{3, 11, columns}, to);
                Sample expected(y);
                kernels::embedding(stream, tokens.view(), table.view(), y.view());
                for (std::int64_t i = 0; i < y.count(); ++i)
                    expected.set(i, table[static_cast<std::int64_t>(tokens[i / columns]) * columns + i % columns]);
                EXPECT_TRUE(y.same_bits(expected));
            }
}

TEST(Embedding, TheGradientAddsTheRowsInOrder) {
    CpuStream stream(2);
    for (const DType type : types)
        for (const std::int64_t columns : widths) {
            const Sample tokens(Shape{70}, DType::i32, 1, 0, 7), dy(Shape{70, columns}, type, 2);
            const Sample dtable(Shape{9, columns}, DType::f32, 3); // tokens 7 and 8 never occur
            std::vector<float> expected(static_cast<std::size_t>(dtable.count()));
            kernels::embedding_gradient(stream, tokens.view(), dy.view(), dtable.view());
            for (std::int64_t i = 0; i < dy.count(); ++i)
                expected[static_cast<std::size_t>(static_cast<std::int64_t>(tokens[i / columns]) * columns +
                                                  i % columns)] += static_cast<float>(dy[i]);
            for (std::int64_t i = 0; i < dtable.count(); ++i)
                ASSERT_EQ(dtable[i], expected[static_cast<std::size_t>(i)]) << i; // the same order, so the same bits
        }
}

TEST(Embedding, TheSameBitsForAnyThreads) {
    for (const DType type : types) {
        const Sample tokens(Shape{3000}, DType::i32, 1, 0, 65), dy(Shape{3000, 129}, type, 2);
        const Sample table(Shape{65, 129}, type, 3);
        expect_same_bits_for_any_threads([&](CpuStream& stream) {
            Sample dtable(Shape{65, 129}, DType::f32);
            kernels::embedding_gradient(stream, tokens.view(), dy.view(), dtable.view());
            return dtable;
        });
        expect_same_bits_for_any_threads([&](CpuStream& stream) {
            Sample y(Shape{3000, 129}, type);
            kernels::embedding(stream, tokens.view(), table.view(), y.view());
            return y;
        });
    }
}

TEST(Embedding, ATokenOutsideTheVocabularyIsNamed) {
    CpuStream stream;
    for (const int wrong : {7, -1}) {
        Sample tokens(Shape{6}, DType::i32, 1, 0, 7);
        tokens.set(5, wrong);
        const Sample table(Shape{7, 3}, DType::f32), y(Shape{6, 3}, DType::f32);
        const std::string sentence = "token " + std::to_string(wrong) + " at position 5 is outside the vocabulary of 7";
        for (const bool gradient : {false, true})
            try {
                if (gradient)
                    kernels::embedding_gradient(stream, tokens.view(), y.view(), table.view());
                else
                    kernels::embedding(stream, tokens.view(), table.view(), y.view());
                FAIL();
            } catch (const ConfigError& error) {
                EXPECT_EQ(error.what(), sentence);
            }
    }
}
