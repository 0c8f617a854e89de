// SPDX-License-Identifier: Apache-2.0
// Products against a plain double loop: sizes that fit no tile, all transpositions, dtypes, bias, accumulation; and the
// same bits for any number of threads.
#include "kernels/matmul.hpp"
#include "kernels/cpu/matmul_block.hpp"
#include "kernels/error.hpp"
#include "kernels/memory.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <random>
#include <rapidcheck.h>
#include <vector>

using namespace tessera;

namespace {

// Values of one dtype, and the same as doubles.
struct Operand {
    DType dtype;
    std::vector<float> floats;
    std::vector<BFloat16> halves;
    std::vector<double> values;

    Operand(std::int64_t count, DType type, std::mt19937& generator) : dtype(type) {
        std::uniform_real_distribution<float> uniform(-1, 1);
        for (std::int64_t i = 0; i < count; ++i) {
            const float value = uniform(generator);
            if (type == DType::f32)
                floats.push_back(value);
            else
                halves.emplace_back(value);
            values.push_back(type == DType::f32 ? value : static_cast<float>(halves.back()));
        }
    }
    void* data() { return dtype == DType::f32 ? static_cast<void*>(floats.data()) : halves.data(); }
    View view() { return View(data(), Shape{static_cast<std::int64_t>(values.size())}, dtype); }
    double at(std::size_t i) const { return dtype == DType::f32 ? floats[i] : static_cast<float>(halves[i]); }
    std::string bytes() const {
        return dtype == DType::f32 ? std::string(reinterpret_cast<const char*>(floats.data()), floats.size() * 4)
                                   : std::string(reinterpret_cast<const char*>(halves.data()), halves.size() * 2);
    }
};

struct Case {
    Matmul product;
    Operand a, b, bias, c;

    explicit Case(const Matmul& described, std::uint32_t seed = 1) : Case(described, std::mt19937(seed)) {}
    Case(const Matmul& described, std::mt19937 generator)
        : product(described), a(described.m * described.k, described.input, generator),
          b(described.k * described.n, described.input, generator), bias(described.n, DType::f32, generator),
          c(described.m * described.n, described.output, generator) {}

    void run(int threads) {
        CpuStream stream(threads);
        const std::int64_t bytes = kernels::matmul_workspace_bytes(stream, product);
        const Buffer workspace(bytes + 4096);
        std::memset(workspace.data(), 0xff, static_cast<std::size_t>(bytes + 4096)); // NaNs, if anything reads them
        kernels::matmul(stream, product, a.view(), b.view(), product.bias ? bias.view() : View(), c.view(),
                        View(workspace.data(), Shape{bytes}, DType::f32));
        for (std::int64_t i = bytes; i < bytes + 4096; ++i)
            ASSERT_EQ(workspace.data()[i], std::byte{0xff}) << "written behind the workspace";
    }

    // The largest difference to the plain sum, in units of what rounding may do to it.
    double error_of_run(int threads) {
        const auto [m, n, k] = std::tuple(product.m, product.n, product.k);
        const std::vector<double> before = c.values;
        run(threads);
        double worst = 0;
        for (std::int64_t i = 0; i < m; ++i)
            for (std::int64_t j = 0; j < n; ++j) {
                const auto at = static_cast<std::size_t>(i * n + j);
                double sum = product.accumulate ? before[at] : 0, magnitude = std::abs(sum);
                if (product.bias) {
                    sum += bias.values[static_cast<std::size_t>(j)];
                    magnitude += std::abs(bias.values[static_cast<std::size_t>(j)]);
                }
                for (std::int64_t l = 0; l < k; ++l) {
                    const double x = a.values[static_cast<std::size_t>(product.transpose_a ? l * m + i : i * k + l)];
                    const double y = b.values[static_cast<std::size_t>(product.transpose_b ? j * k + l : l * n + j)];
                    sum += x * y;
                    magnitude += std::abs(x * y);
                }
                const double rounding = 1e-7 * (2 + std::sqrt(static_cast<double>(k))) * magnitude +
                                        (product.output == DType::bf16 ? std::abs(sum) / 256 : 0);
                worst = std::max(worst, std::abs(c.at(at) - sum) / (rounding + 1e-30));
            }
        return worst;
    }
};

std::string text(const Matmul& product) {
    return fmt::format("{}x{}x{} {}{} {}->{} bias {} accumulate {}", product.m, product.n, product.k,
                       product.transpose_a ? "T" : "N", product.transpose_b ? "T" : "N", name_of(product.input),
                       name_of(product.output), product.bias, product.accumulate);
}

template <class Check> void for_each_kind(const Check& check) {
    for (const int kind : {0, 1, 2})
        for (int flags = 0; flags < 16; ++flags)
            check(Matmul{.transpose_a = (flags & 1) != 0,
                         .transpose_b = (flags & 2) != 0,
                         .input = kind == 0 ? DType::f32 : DType::bf16,
                         .output = kind == 2 ? DType::bf16 : DType::f32,
                         .bias = (flags & 4) != 0,
                         .accumulate = (flags & 8) != 0});
}

} // namespace

TEST(Matmul, EqualsThePlainSum) {
    const std::int64_t sizes[][3] = {{1, 1, 1},    {7, 5, 3},     {65, 33, 17}, {16, 16, 16}, {28, 48, 64},
                                     {12, 32, 40}, {129, 65, 31}, {1, 129, 65}, {64, 1, 129}, {40, 31, 700},
                                     {0, 7, 5},    {7, 0, 5},     {7, 65, 0},   {0, 0, 0}};
    for_each_kind([&](Matmul product) {
        for (const auto& size : sizes) {
            std::tie(product.m, product.n, product.k) = std::tuple(size[0], size[1], size[2]);
            for (const int threads : {1, 3})
                EXPECT_LE(Case(product).error_of_run(threads), 1) << text(product);
        }
    });
}

TEST(Matmul, EqualsThePlainSumForRandomSizes) {
    rc::check("any product", [] {
        Matmul product;
        product.m = *rc::gen::inRange(0, 70);
        product.n = *rc::gen::inRange(0, 70);
        product.k = *rc::gen::inRange(0, 400);
        product.transpose_a = *rc::gen::arbitrary<bool>();
        product.transpose_b = *rc::gen::arbitrary<bool>();
        product.bias = *rc::gen::arbitrary<bool>();
        product.accumulate = *rc::gen::arbitrary<bool>();
        product.input = *rc::gen::element(DType::f32, DType::bf16);
        product.output = product.input == DType::f32 ? DType::f32 : *rc::gen::element(DType::f32, DType::bf16);
        RC_LOG() << text(product);
        RC_ASSERT(Case(product).error_of_run(*rc::gen::inRange(1, 4)) <= 1);
    });
}

// Blocks and chunks of b: more columns than are packed at one time, more rows than a group, more k than a block.
TEST(Matmul, EqualsThePlainSumBeyondOneBlock) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        EXPECT_LE(Case({.m = 13, .n = 1100, .k = 1300, .transpose_b = true, .input = dtype}).error_of_run(2), 1);
        EXPECT_LE(Case({.m = 900, .n = 40, .k = 1250, .transpose_a = true, .input = dtype}).error_of_run(2), 1);
    }
}

TEST(Matmul, SameBitsForAnyNumberOfThreads) {
    const std::int64_t sizes[][3] = {{512, 128, 768}, {128, 128, 768}, {64, 64, 4096}, {16, 16, 10000},
                                     {65, 128, 200},  {7, 129, 65},    {1, 768, 768},  {48, 1100, 1300}};
    for_each_kind([&](Matmul product) {
        if (!product.bias || !product.accumulate) return; // what is added first changes no partition
        for (const auto& size : sizes) {
            std::tie(product.m, product.n, product.k) = std::tuple(size[0], size[1], size[2]);
            Case one(product);
            one.run(1);
            for (const int threads : {1, 2, 5}) {
                Case several(product);
                several.run(threads);
                EXPECT_EQ(one.c.bytes(), several.c.bytes()) << text(product) << ", " << threads << " threads";
            }
        }
    });
}

// A product of some rows is a part of the product of all of them, to the last bit.
TEST(Matmul, RowsDoNotDependOnTheirNeighbours) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        Case whole({.m = 100, .n = 70, .k = 333, .transpose_b = true, .input = dtype});
        whole.run(1);
        for (const std::int64_t rows : {1, 3, 64}) {
            Case part({.m = rows, .n = 70, .k = 333, .transpose_b = true, .input = dtype});
            part.b = whole.b;
            part.a = whole.a;
            part.a.values.resize(static_cast<std::size_t>(rows * 333));
            part.run(1);
            EXPECT_EQ(0, std::memcmp(part.c.data(), whole.c.data(), static_cast<std::size_t>(rows) * 70 * 4));
        }
    }
}

// Where the processor has no instructions for bf16, its operands are packed as floats.
TEST(Matmul, Bf16WithoutItsInstructionsIsRight) {
    constexpr std::int64_t m = 12, n = 32, k = 37;
    for (const bool transpose_a : {false, true})
        for (const bool transpose_b : {false, true}) {
            Case expected(
                {.m = m, .n = n, .k = k, .transpose_a = transpose_a, .transpose_b = transpose_b, .input = DType::bf16});
            expected.run(1);
            std::vector<float> a(m * k + 16), b(n * k + 16), c(m * n);
            kernels::pack_panel({expected.a.data(), m, k, transpose_a, DType::bf16, false}, 0, m, m, 0, k, a.data());
            kernels::pack_panel({expected.b.data(), n, k, !transpose_b, DType::bf16, false}, 0, n, n, 0, k, b.data());
            kernels::multiply_block_f32({.a = a.data(),
                                         .a_stride = 0,

                                         .a_order = kernels::TileOrder::packed,
                                         .b = b.data(),
                                         .b_panel_stride = n * k,
                                         .rows = m,
                                         .columns = n,
                                         .words = k,
                                         .bias = nullptr,
                                         .read_c = false,
                                         .c = c.data(),
                                         .c_stride = n,
                                         .output = DType::f32});
            for (std::size_t i = 0; i < c.size(); ++i)
                EXPECT_NEAR(c[i], expected.c.at(i), 1e-5);
        }
}

// Sums of nothing but a bias, whatever its bits: a whole tile and one at the edge round as a single value does.
TEST(Matmul, RoundsToBf16LikeASingleValue) {
    constexpr std::int64_t columns = 32 * 300 + 7;
    Case product({.m = 13, .n = columns, .k = 2, .input = DType::bf16, .output = DType::bf16, .bias = true});
    std::fill(product.a.halves.begin(), product.a.halves.end(), BFloat16(0));
    std::mt19937 generator(5);
    std::vector<std::uint32_t> words = {0, 0x7f800000, 0xff800000, 0x7f800001, 0x7fc00000, 0x7f7fffff, 0x3f808000};
    while (words.size() < static_cast<std::size_t>(columns))
        if (const auto word = static_cast<std::uint32_t>(generator()); (word & 0x7f800000u) != 0) // no subnormals
            words.push_back(generator() % 4 == 0 ? (word & 0xffff0000u) | 0x8000u : word);        // halfway: to even
    std::shuffle(words.begin(), words.end(), generator);
    std::memcpy(product.bias.floats.data(), words.data(), words.size() * 4);
    product.run(1);
    for (std::size_t i = 0; i < product.c.halves.size(); ++i) {
        const auto column = i % static_cast<std::size_t>(columns);
        const float bias = product.bias.floats[column];
        if (std::isnan(bias))
            EXPECT_TRUE(std::isnan(static_cast<float>(product.c.halves[i]))) << words[column];
        else
            EXPECT_EQ(product.c.halves[i].bits, BFloat16(bias).bits) << words[column];
    }
}

TEST(Matmul, WrongViewsAreRefused) {
    CpuStream stream;
    Case right({.m = 3, .n = 4, .k = 5});
    const auto run = [&](const Matmul& product, const View& workspace) {
        kernels::matmul(stream, product, right.a.view(), right.b.view(), {}, right.c.view(), workspace);
    };
    const Buffer memory(1 << 20);
    const View workspace(memory.data(), Shape{1 << 18}, DType::f32);
    EXPECT_NO_THROW(run({.m = 3, .n = 4, .k = 5}, workspace));
    EXPECT_THROW(run({.m = 3, .n = 4, .k = 6}, workspace), InternalError);
    EXPECT_THROW(run({.m = 3, .n = 4, .k = 5, .bias = true}, workspace), InternalError);
    EXPECT_THROW(run({.m = 3, .n = 4, .k = 5, .input = DType::bf16}, workspace), InternalError);
    EXPECT_THROW(run({.m = 3, .n = 4, .k = 5, .output = DType::bf16}, workspace), InternalError);
    EXPECT_THROW(run({.m = 3, .n = 4, .k = 5}, View()), InternalError);
}
