// SPDX-License-Identifier: Apache-2.0
// Rows chosen from a table, and the sum that is its gradient.
#include "kernels/embedding.hpp"

#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <limits>

using namespace tessera;

namespace embedding_test {
using kernels::VocabularyShard;

namespace {

constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};
constexpr std::int64_t widths[] = {1, 8, 15, 16, 17, 129, 264, 768};

// All but the first `skipped` elements, as rows: memory that is aligned to elements only.
View rows_after(const View& view, std::int64_t skipped, std::int64_t columns) {
    return {static_cast<std::byte*>(view.memory()) + skipped * bytes_of(view.dtype),
            {(view.count() - skipped) / columns, columns},
            view.dtype};
}

void poison(const Sample& sample) {
    for (std::int64_t i = 0; i < sample.count(); ++i)
        const_cast<Sample&>(sample).set(i, std::numeric_limits<double>::quiet_NaN());
}

template <class Device>
void run_gradient(Device& on, const Sample& tokens, const View& dy, VocabularyShard shard, const View& dtable) {
    const std::int64_t bytes =
        kernels::embedding_gradient_workspace_bytes(on.stream(), tokens.count(), dtable.shape[0]);
    const Sample workspace(Shape{(bytes + 3) / 4}, DType::f32, 9);
    kernels::embedding_gradient(on.stream(), on(tokens), dy, shard, dtable, on(workspace));
    on.finish();
}

template <class Device> void run_gradient(Device& on, const Sample& tokens, const View& dy, const View& dtable) {
    run_gradient(on, tokens, dy, {0, dtable.shape[0]}, dtable);
}

// By plain addition in the order of the tokens: the same order, so the same bits.
std::vector<float> added_rows(const Sample& tokens, const Sample& dy, std::int64_t vocabulary, std::int64_t columns) {
    std::vector<float> sums(static_cast<std::size_t>(vocabulary * columns));
    for (std::int64_t i = 0; i < tokens.count() * columns; ++i)
        sums[static_cast<std::size_t>(static_cast<std::int64_t>(tokens[i / columns]) * columns + i % columns)] +=
            static_cast<float>(dy[i]);
    return sums;
}

template <class Device>
void expect_sums_in_order(const Sample& tokens, std::int64_t vocabulary, std::int64_t columns, DType type) {
    SCOPED_TRACE(testing::Message() << tokens.count() << " tokens of " << vocabulary << ", " << columns << " columns");
    const Sample dy(Shape{tokens.count(), columns}, type, 2), dtable(Shape{vocabulary, columns}, DType::f32);
    poison(dtable);
    Device on;
    run_gradient(on, tokens, on(dy), on(dtable));
    const std::vector<float> expected = added_rows(tokens, dy, vocabulary, columns);
    for (std::int64_t i = 0; i < dtable.count(); ++i)
        ASSERT_EQ(dtable[i], expected[static_cast<std::size_t>(i)]) << i;
}

} // namespace

template <class Device> class Embedding : public testing::Test {};
TYPED_TEST_SUITE(Embedding, Devices, DeviceNames);

TYPED_TEST(Embedding, CopiesTheRowsOfItsTokens) {
    TypeParam on;
    for (const DType from : types)
        for (const DType to : types)
            for (const std::int64_t columns : widths) {
                const Sample tokens(Shape{3, 11}, DType::i32, 1, 0, 7), table(Shape{7, columns}, from, 2);
                const Sample y(Shape{3, 11, columns}, to);
                Sample expected(y);
                poison(y);
                kernels::embedding(on.stream(), on(tokens), on(table), on(y));
                on.finish();
                for (std::int64_t i = 0; i < y.count(); ++i)
                    expected.set(i, table[static_cast<std::int64_t>(tokens[i / columns]) * columns + i % columns]);
                EXPECT_TRUE(y.same_bits(expected));
            }
}

TYPED_TEST(Embedding, TheGradientAddsTheRowsInOrder) {
    for (const DType type : types)
        for (const std::int64_t columns : widths) // tokens 7 and 8 never occur
            expect_sums_in_order<TypeParam>(Sample(Shape{70}, DType::i32, 1, 0, 7), 9, columns, type);
}

// Tokens of one, two and three digits of eight bits; more positions than one tile of the sort has, or all its tiles.
TYPED_TEST(Embedding, TheGradientOfManyTokens) {
    const Sample few(Shape{1}, DType::i32), none(Shape{0}, DType::i32);
    for (const DType type : types) {
        for (const std::int64_t vocabulary : {1, 2, 256, 257, 50257, 70000})
            expect_sums_in_order<TypeParam>(Sample(Shape{5003}, DType::i32, 1, 0, static_cast<double>(vocabulary)),
                                            vocabulary, 8, type);
        expect_sums_in_order<TypeParam>(few, 1000, 12, type);
        expect_sums_in_order<TypeParam>(none, 1000, 12, type);
    }
    expect_sums_in_order<TypeParam>(Sample(Shape{140001}, DType::i32, 1, 0, 65), 65, 3, DType::f32);
    Sample frequent(Shape{3000}, DType::i32, 1, 0, 2000);
    for (std::int64_t i = 0; i < 3000; i += 1 + i % 3)
        frequent.set(i, 1234);
    expect_sums_in_order<TypeParam>(frequent, 2000, 72, DType::bf16);
}

namespace {

// Rows [first, first + rows) of a table.
Sample rows_of(const Sample& table, std::int64_t first, std::int64_t rows) {
    const std::int64_t columns = table.view().shape[1];
    Sample part(Shape{rows, columns}, table.dtype());
    for (std::int64_t i = 0; i < part.count(); ++i)
        part.set(i, table[first * columns + i]);
    return part;
}

// Uneven shards of 65 rows, the third of them empty, another of a single row.
struct Cut {
    std::int64_t first, rows;
};
constexpr Cut cuts[] = {{0, 20}, {20, 1}, {21, 0}, {21, 44}};

} // namespace

TYPED_TEST(Embedding, AShardLooksUpItsRowsAndIsZeroElsewhere) {
    const Sample tokens(Shape{3, 50}, DType::i32, 1, 0, 65);
    for (const DType from : types)
        for (const DType to : types)
            for (const std::int64_t columns : widths) {
                const Sample table(Shape{65, columns}, from, 2);
                for (const auto& [first, rows] : cuts) {
                    TypeParam on;
                    const Sample part = rows_of(table, first, rows), y(Shape{3, 50, columns}, to);
                    poison(y);
                    kernels::embedding(on.stream(), on(tokens), on(part), {first, 65}, on(y));
                    on.finish();
                    Sample expected(y.view().shape, to);
                    for (std::int64_t i = 0; i < y.count(); ++i) {
                        const auto row = static_cast<std::int64_t>(tokens[i / columns]) - first;
                        expected.set(i, row >= 0 && row < rows ? part[row * columns + i % columns] : 0);
                    }
                    ASSERT_TRUE(y.same_bits(expected)) << "rows " << first << " to " << first + rows;
                }
            }
}

TYPED_TEST(Embedding, TheGradientsOfShardsAreRowsOfTheWhole) {
    Sample tokens(Shape{700}, DType::i32, 1, 0, 65);
    for (std::int64_t i = 0; i < 700; i += 1 + i % 3) // one in the last shard is frequent
        tokens.set(i, 30);
    for (const DType type : types)
        for (const std::int64_t columns : {1, 17, 264}) {
            const Sample dy(Shape{700, columns}, type, 2), whole(Shape{65, columns}, DType::f32);
            TypeParam on_whole;
            run_gradient(on_whole, tokens, on_whole(dy), on_whole(whole));
            for (const auto& [first, rows] : cuts) {
                TypeParam on;
                const Sample part(Shape{rows, columns}, DType::f32);
                poison(part);
                run_gradient(on, tokens, on(dy), {first, 65}, on(part));
                EXPECT_TRUE(part.same_bits(rows_of(whole, first, rows))) << "rows " << first << " to " << first + rows;
            }
        }
}

// Also by a rank that does not hold the row that is meant.
TYPED_TEST(Embedding, AShardNamesATokenOutsideTheVocabulary) {
    for (const int wrong : {65, -1, 1000})
        for (const auto& [first, rows] : cuts)
            for (const bool gradient : {false, true}) {
                Sample tokens(Shape{6}, DType::i32, 1, 0, 65);
                tokens.set(4, wrong);
                const Sample part(Shape{rows, 3}, DType::f32), y(Shape{6, 3}, DType::f32);
                try {
                    TypeParam on;
                    if (gradient) {
                        run_gradient(on, tokens, on(y), {first, 65}, on(part));
                    } else {
                        kernels::embedding(on.stream(), on(tokens), on(part), {first, 65}, on(y));
                        on.finish();
                    }
                    FAIL() << wrong;
                } catch (const ConfigError& error) {
                    EXPECT_EQ(error.what(),
                              "token " + std::to_string(wrong) + " at position 4 is outside the vocabulary of 65");
                }
            }
}

TYPED_TEST(Embedding, AShardDoesNotBeginBeforeTheVocabulary) {
    TypeParam on;
    const Sample tokens(Shape{6}, DType::i32), part(Shape{10, 3}, DType::f32), y(Shape{6, 3}, DType::f32);
    const VocabularyShard shard{-1, 65};
    EXPECT_THROW(kernels::embedding(on.stream(), on(tokens), on(part), shard, on(y)), InternalError);
    EXPECT_THROW(run_gradient(on, tokens, on(y), shard, on(part)), InternalError);
}

// Rows behind the vocabulary: no token has them, and their gradient is 0.
TYPED_TEST(Embedding, AShardMayEndInPadding) {
    TypeParam on;
    const Sample tokens(Shape{40}, DType::i32, 1, 0, 65), dy(Shape{40, 3}, DType::f32, 2),
        rows(Shape{15, 3}, DType::f32);
    poison(rows);
    run_gradient(on, tokens, on(dy), VocabularyShard{55, 65}, on(rows));
    for (std::int64_t i = 30; i < 45; ++i)
        EXPECT_EQ(rows[i], 0) << i;
    const Sample outside(Shape{1}, DType::i32, 1, 66, 67), y(Shape{1, 3}, DType::f32);
    EXPECT_THROW(
        {
            kernels::embedding(on.stream(), on(outside), on(rows), VocabularyShard{55, 65}, on(y));
            on.finish();
        },
        ConfigError);
}

TYPED_TEST(Embedding, MemoryNeedNotBeAligned) {
    const Sample tokens(Shape{50}, DType::i32, 1, 0, 9);
    for (const DType type : types)
        for (const std::int64_t skipped : {1, 2}) {
            TypeParam on;
            const Sample aligned(Shape{50, 16}, type, 2), there(Shape{9, 16}, DType::f32), y(Shape{50, 16}, type);
            const Sample shifted(Shape{skipped + 50 * 16}, type), elsewhere(Shape{skipped + 9 * 16}, DType::f32);
            const Sample other_y(Shape{skipped + 50 * 16}, type);
            for (std::int64_t i = 0; i < aligned.count(); ++i)
                const_cast<Sample&>(shifted).set(skipped + i, aligned[i]);
            kernels::embedding(on.stream(), on(tokens), rows_after(on(shifted), skipped, 16),
                               rows_after(on(other_y), skipped, 16));
            kernels::embedding(on.stream(), on(tokens), on(aligned), on(y));
            run_gradient(on, tokens, on(aligned), on(there));
            run_gradient(on, tokens, rows_after(on(shifted), skipped, 16), rows_after(on(elsewhere), skipped, 16));
            for (std::int64_t i = 0; i < there.count(); ++i)
                ASSERT_EQ(elsewhere[skipped + i], there[i]);
            for (std::int64_t i = 0; i < y.count(); ++i)
                ASSERT_EQ(other_y[skipped + i], y[i]);
        }
}

TEST(EmbeddingOnCpu, TheSameBitsForAnyThreads) {
    for (const DType type : types) {
        const Sample tokens(Shape{3000}, DType::i32, 1, 0, 65), dy(Shape{3000, 129}, type, 2);
        const Sample table(Shape{65, 129}, type, 3);
        expect_same_bits_for_any_threads([&](CpuStream& stream) {
            Sample dtable(Shape{65, 129}, DType::f32);
            kernels::embedding_gradient(stream, tokens.view(), dy.view(), dtable.view(), {});
            return dtable;
        });
        expect_same_bits_for_any_threads([&](CpuStream& stream) {
            Sample y(Shape{3000, 129}, type);
            kernels::embedding(stream, tokens.view(), table.view(), y.view());
            return y;
        });
    }
}

TYPED_TEST(Embedding, ATokenOutsideTheVocabularyIsNamed) {
    for (const int wrong : {7, -1, 256, std::numeric_limits<int>::max()}) {
        Sample tokens(Shape{6}, DType::i32, 1, 0, 7);
        tokens.set(5, wrong);
        const Sample table(Shape{7, 3}, DType::f32), y(Shape{6, 3}, DType::f32);
        const std::string sentence = "token " + std::to_string(wrong) + " at position 5 is outside the vocabulary of 7";
        for (const bool gradient : {false, true})
            try {
                TypeParam on;
                if (gradient) {
                    run_gradient(on, tokens, on(y), on(table));
                } else {
                    kernels::embedding(on.stream(), on(tokens), on(table), on(y));
                    on.finish();
                }
                FAIL();
            } catch (const ConfigError& error) {
                EXPECT_EQ(error.what(), sentence);
            }
    }
}

TYPED_TEST(Embedding, WrongSizesAreRefused) {
    TypeParam on;
    const Sample tokens(Shape{6}, DType::i32), table(Shape{7, 3}, DType::f32), y(Shape{5, 3}, DType::f32);
    EXPECT_THROW(kernels::embedding(on.stream(), on(tokens), on(table), on(y)), InternalError);
    EXPECT_THROW(run_gradient(on, tokens, on(y), on(table)), InternalError);
    if (kernels::embedding_gradient_workspace_bytes(on.stream(), 5, 7) == 0) return;
    const Sample five(Shape{5}, DType::i32), workspace(Shape{8}, DType::f32);
    EXPECT_THROW(kernels::embedding_gradient(on.stream(), on(five), on(y), on(table), on(workspace)), InternalError);
}

} // namespace embedding_test
