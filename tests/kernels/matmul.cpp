// SPDX-License-Identifier: Apache-2.0
// Products against a plain double loop: sizes that fit no tile, all transpositions, dtypes, bias, accumulation, views
// that are aligned to one element only; and the same bits in each run and for any number of threads.
#include "kernels/matmul.hpp"
#include "kernels/cpu/matmul_block.hpp"
#include "kernels/error.hpp"
#include "kernels/matmul_check.hpp"
#include "tests/support/device.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <rapidcheck.h>

using namespace tessera;

namespace matmul_test {
using kernels::text_of;

template <class Device> class Matmuls : public testing::Test {};
TYPED_TEST_SUITE(Matmuls, Devices, DeviceNames);

namespace {

// One product's operands, behind `skipped` elements of their memory.
struct Case {
    Matmul product;
    std::int64_t skipped;
    Sample a, b, bias, c;

    explicit Case(const Matmul& described, unsigned seed = 1, std::int64_t elements = 0)
        : product(described), skipped(elements),
          a(Shape{elements + described.m * described.k}, described.input, 4 * seed, -1, 1),
          b(Shape{elements + described.k * described.n}, described.input, 4 * seed + 1, -1, 1),
          bias(Shape{elements + described.n}, DType::f32, 4 * seed + 2, -1, 1),
          c(Shape{elements + described.m * described.n}, described.output, 4 * seed + 3, -1, 1) {
        for (std::int64_t i = skipped; i < c.count() && !product.accumulate; ++i)
            c.set(i, std::numeric_limits<double>::quiet_NaN());
    }

    View part(const View& whole) const {
        return {static_cast<std::byte*>(whole.memory()) + skipped * bytes_of(whole.dtype),
                {whole.count() - skipped},
                whole.dtype};
    }
};

double output_rounding(const Matmul& product) {
    return product.output == DType::f32 ? 0 : tolerance(product.output, Kind::rounding).relative;
}

// Runs products on a device; nothing is written behind the workspace that they ask for.
template <class Device> class Multiplier {
public:
    template <class... Options> explicit Multiplier(Options... options) : on_(options...) {}

    void operator()(Case& test) {
        const std::int64_t bytes = kernels::matmul_workspace_bytes(on_.stream(), test.product);
        if (bytes + guard > memory_.bytes()) memory_ = allocate(on_.stream(), bytes + guard);
        std::byte* workspace = memory_.data() + memory_.bytes() - guard - bytes;
        const std::int64_t words = (std::min<std::int64_t>(bytes, 1 << 20) + guard) / 4; // NaNs, if anything reads them
        const std::vector<std::int32_t> nans(static_cast<std::size_t>(words), -1);
        const auto numbers = [](const void* at, std::int64_t count) { return ConstView{at, {count}, DType::i32}; };
        kernels::upload(on_.stream(), numbers(nans.data(), words), View(workspace, {words}, DType::i32));
        kernels::upload(on_.stream(), numbers(nans.data(), guard / 4),
                        View(workspace + bytes, {guard / 4}, DType::i32));
        const ConstView bias = test.product.bias ? test.part(on_(test.bias)) : View();
        kernels::matmul(on_.stream(), test.product, test.part(on_(test.a)), test.part(on_(test.b)), bias,
                        test.part(on_(test.c)), View(workspace, {bytes / 4}, DType::f32));
        on_.finish();
        std::vector<std::int32_t> behind(guard / 4);
        kernels::download(on_.stream(), numbers(workspace + bytes, guard / 4),
                          View(behind.data(), {guard / 4}, DType::i32));
        ASSERT_EQ(behind, std::vector<std::int32_t>(guard / 4, -1)) << "written behind the workspace";
    }
    auto& stream() { return on_.stream(); }

    // A GPU rounds a bias to c's dtype.
    double bias_rounding(const Matmul& product) const {
        return std::is_same_v<Device, OnCuda> ? output_rounding(product) : 0;
    }

private:
    static constexpr std::int64_t guard = 4096;

    Device on_;
    Buffer memory_;
};

struct Sums {
    std::vector<double> values, magnitudes;
};

Sums plain_sums(const Case& test) {
    const auto [m, n, k] = std::tuple(test.product.m, test.product.n, test.product.k);
    Sums sums;
    for (std::int64_t i = 0; i < m; ++i)
        for (std::int64_t j = 0; j < n; ++j) {
            double sum = test.product.accumulate ? test.c[test.skipped + i * n + j] : 0, magnitude = std::abs(sum);
            const auto add = [&](double term) {
                sum += term;
                magnitude += std::abs(term);
            };
            if (test.product.bias) add(test.bias[test.skipped + j]);
            for (std::int64_t l = 0; l < k; ++l)
                add(test.a[test.skipped + (test.product.transpose_a ? l * m + i : i * k + l)] *
                    test.b[test.skipped + (test.product.transpose_b ? j * k + l : l * n + j)]);
            sums.values.push_back(sum);
            sums.magnitudes.push_back(magnitude);
        }
    return sums;
}

// The largest difference to the plain sum, in units of what rounding may do to it.
template <class Device> double error_of(Multiplier<Device>& multiply, Case test) {
    const Sums expected = plain_sums(test);
    multiply(test);
    double worst = 0;
    for (std::size_t i = 0; i < expected.values.size(); ++i) {
        const double bias =
            test.product.bias ? std::abs(test.bias[test.skipped + static_cast<std::int64_t>(i) % test.product.n]) : 0;
        const double rounding = 1e-7 * (2 + std::sqrt(static_cast<double>(test.product.k))) * expected.magnitudes[i] +
                                output_rounding(test.product) * std::abs(expected.values[i]) +
                                bias * multiply.bias_rounding(test.product);
        const double difference =
            std::abs(test.c[test.skipped + static_cast<std::int64_t>(i)] - expected.values[i]) / (rounding + 1e-30);
        if (!(difference <= worst)) worst = difference; // a NaN is kept
    }
    return worst;
}

template <class Check> void for_each_kind(const Check& check) {
    for (const int kind : {0, 1, 2, 3, 4})
        for (int flags = 0; flags < 16; ++flags)
            check(Matmul{.transpose_a = (flags & 1) != 0,
                         .transpose_b = (flags & 2) != 0,
                         .input = kind == 0  ? DType::f32
                                  : kind < 3 ? DType::bf16
                                             : DType::f16,
                         .output = kind == 2   ? DType::bf16
                                   : kind == 4 ? DType::f16
                                               : DType::f32,
                         .bias = (flags & 4) != 0,
                         .accumulate = (flags & 8) != 0});
}

template <class Device> void expect_plain_sums(Multiplier<Device>& multiply) {
    const std::int64_t sizes[][3] = {{1, 1, 1},    {7, 5, 3},     {65, 33, 17}, {16, 16, 16}, {28, 48, 64},
                                     {12, 32, 40}, {129, 65, 31}, {1, 129, 65}, {64, 1, 129}, {40, 31, 700},
                                     {0, 7, 5},    {7, 0, 5},     {7, 65, 0},   {0, 0, 0}};
    for_each_kind([&](Matmul product) {
        for (const auto& size : sizes) {
            std::tie(product.m, product.n, product.k) = std::tuple(size[0], size[1], size[2]);
            EXPECT_LE(error_of(multiply, Case(product)), 1) << text_of(product);
        }
    });
}

} // namespace

TYPED_TEST(Matmuls, EqualThePlainSum) {
    Multiplier<TypeParam> multiply;
    expect_plain_sums(multiply);
}

TEST(MatmulOnCpu, EqualsThePlainSumForAnyNumberOfThreads) {
    for (const int threads : {1, 3}) {
        Multiplier<OnCpu> multiply(threads);
        expect_plain_sums(multiply);
    }
}

TYPED_TEST(Matmuls, EqualThePlainSumForRandomSizes) {
    Multiplier<TypeParam> multiply;
    rc::check("any product", [&] {
        Matmul product;
        product.m = *rc::gen::inRange(0, 70);
        product.n = *rc::gen::inRange(0, 70);
        product.k = *rc::gen::inRange(0, 400);
        product.transpose_a = *rc::gen::arbitrary<bool>();
        product.transpose_b = *rc::gen::arbitrary<bool>();
        product.bias = *rc::gen::arbitrary<bool>();
        product.accumulate = *rc::gen::arbitrary<bool>();
        product.input = *rc::gen::element(DType::f32, DType::bf16, DType::f16);
        product.output = *rc::gen::element(DType::f32, product.input);
        RC_LOG() << text_of(product);
        RC_ASSERT(error_of(multiply, Case(product, 1, *rc::gen::inRange(0, 4))) <= 1);
    });
}

// What a plan never does, but a view may: memory that starts in the middle of a vector.
TYPED_TEST(Matmuls, EqualThePlainSumOfUnalignedViews) {
    Multiplier<TypeParam> multiply;
    for_each_kind([&](Matmul product) {
        for (const std::int64_t skipped : {1, 3, 4}) {
            std::tie(product.m, product.n, product.k) = std::tuple(24, 32, 16);
            EXPECT_LE(error_of(multiply, Case(product, 1, skipped)), 1) << text_of(product) << ", " << skipped;
            std::tie(product.m, product.n, product.k) = std::tuple(7, 5, 0);
            EXPECT_LE(error_of(multiply, Case(product, 1, skipped)), 1) << text_of(product) << ", " << skipped;
        }
    });
}

// Blocks and chunks of b: more columns than are packed at one time, more rows than a group, more k than a block.
TYPED_TEST(Matmuls, EqualThePlainSumBeyondOneBlock) {
    Multiplier<TypeParam> multiply;
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
        EXPECT_LE(error_of(multiply, Case({.m = 13, .n = 1100, .k = 1300, .transpose_b = true, .input = dtype})), 1);
        EXPECT_LE(error_of(multiply, Case({.m = 900, .n = 40, .k = 1250, .transpose_a = true, .input = dtype})), 1);
    }
}

TYPED_TEST(Matmuls, SameBitsInEveryRun) {
    const std::int64_t sizes[][3] = {{7, 129, 65}, {64, 64, 300}, {16, 16, 10000}};
    Multiplier<TypeParam> first, second;
    for_each_kind([&](Matmul product) {
        for (const auto& size : sizes) {
            std::tie(product.m, product.n, product.k) = std::tuple(size[0], size[1], size[2]);
            Case one(product), again(product), other(product);
            first(one);
            first(again);
            second(other);
            EXPECT_TRUE(again.c.same_bits(one.c)) << text_of(product);
            EXPECT_TRUE(other.c.same_bits(one.c)) << text_of(product) << ", on another stream";
        }
    });
}

TEST(MatmulOnCpu, SameBitsForAnyNumberOfThreads) {
    const std::int64_t sizes[][3] = {{512, 128, 768}, {128, 128, 768}, {64, 64, 4096}, {16, 16, 10000},
                                     {65, 128, 200},  {7, 129, 65},    {1, 768, 768},  {48, 1100, 1300}};
    for_each_kind([&](Matmul product) {
        if (!product.bias || !product.accumulate) return; // what is added first changes no partition
        for (const auto& size : sizes) {
            std::tie(product.m, product.n, product.k) = std::tuple(size[0], size[1], size[2]);
            Case one(product);
            Multiplier<OnCpu>(1)(one);
            for (const int threads : {2, 5}) {
                Case several(product);
                Multiplier<OnCpu> multiply(threads);
                multiply(several);
                EXPECT_TRUE(one.c.same_bits(several.c)) << text_of(product) << ", " << threads << " threads";
            }
        }
    });
}

// A product of some rows is a part of the product of all of them, to the last bit.
TEST(MatmulOnCpu, RowsDoNotDependOnTheirNeighbours) {
    Multiplier<OnCpu> multiply(1);
    for (const DType dtype : {DType::f32, DType::bf16}) {
        Case whole({.m = 100, .n = 70, .k = 333, .transpose_b = true, .input = dtype});
        multiply(whole);
        for (const std::int64_t rows : {1, 3, 64}) {
            Case part({.m = rows, .n = 70, .k = 333, .transpose_b = true, .input = dtype}); // begins like the whole
            multiply(part);
            EXPECT_EQ(0, std::memcmp(part.c.view().data, whole.c.view().data, static_cast<std::size_t>(rows) * 70 * 4));
        }
    }
}

// Where the processor has no instructions for bf16, its operands are packed as floats.
TEST(MatmulOnCpu, Bf16WithoutItsInstructionsIsRight) {
    constexpr std::int64_t m = 12, n = 32, k = 37;
    Multiplier<OnCpu> multiply(1);
    for (const bool transpose_a : {false, true})
        for (const bool transpose_b : {false, true}) {
            Case expected(
                {.m = m, .n = n, .k = k, .transpose_a = transpose_a, .transpose_b = transpose_b, .input = DType::bf16});
            multiply(expected);
            std::vector<float> a(m * k + 16), b(n * k + 16), c(m * n);
            const void *from_a = expected.a.view().data, *from_b = expected.b.view().data;
            kernels::pack_panel({from_a, m, k, transpose_a, DType::bf16, false}, 0, m, m, 0, k, a.data());
            kernels::pack_panel({from_b, n, k, !transpose_b, DType::bf16, false}, 0, n, n, 0, k, b.data());
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
                EXPECT_NEAR(c[i], expected.c[static_cast<std::int64_t>(i)], 1e-5);
        }
}

// Sums of nothing but a bias, whatever its bits: a whole tile and one at the edge round as a single value does.
TYPED_TEST(Matmuls, RoundToBf16LikeASingleValue) {
    constexpr std::int64_t columns = 32 * 300 + 7;
    Case test({.m = 13, .n = columns, .k = 2, .input = DType::bf16, .output = DType::bf16, .bias = true});
    for (std::int64_t i = 0; i < test.a.count(); ++i)
        test.a.set(i, 0);
    std::mt19937 generator(5);
    std::vector<std::uint32_t> words = {0, 0x7f800000, 0xff800000, 0x7f800001, 0x7fc00000, 0x7f7fffff, 0x3f808000};
    while (words.size() < static_cast<std::size_t>(columns))
        if (const auto word = static_cast<std::uint32_t>(generator()); (word & 0x7f800000u) != 0) // no subnormals
            words.push_back(generator() % 4 == 0 ? (word & 0xffff0000u) | 0x8000u : word);        // halfway: to even
    std::shuffle(words.begin(), words.end(), generator);
    std::memcpy(test.bias.view().memory(), words.data(), words.size() * 4);
    Multiplier<TypeParam> multiply;
    multiply(test);
    const auto* rounded = test.c.view().template as<BFloat16>();
    for (std::int64_t i = 0; i < test.c.count(); ++i) {
        const auto bias = static_cast<float>(test.bias[i % columns]);
        if (std::isnan(bias))
            EXPECT_TRUE(std::isnan(test.c[i])) << words[static_cast<std::size_t>(i % columns)];
        else
            EXPECT_EQ(rounded[i].bits, BFloat16(bias).bits) << words[static_cast<std::size_t>(i % columns)];
    }
}

TYPED_TEST(Matmuls, OfWrongViewsAreRefused) {
    TypeParam on;
    const Case right({.m = 3, .n = 4, .k = 5});
    const Buffer memory = allocate(on.stream(), kernels::matmul_workspace_bytes(on.stream(), right.product));
    const View workspace(memory.data(), {memory.bytes() / 4}, DType::f32);
    const auto run = [&](const Matmul& product, const View& given) {
        kernels::matmul(on.stream(), product, on(right.a), on(right.b), {}, on(right.c), given);
    };
    EXPECT_NO_THROW(run({.m = 3, .n = 4, .k = 5}, workspace));
    EXPECT_THROW(run({.m = 3, .n = 4, .k = 6}, workspace), InternalError);
    EXPECT_THROW(run({.m = 3, .n = 4, .k = 5, .bias = true}, workspace), InternalError);
    EXPECT_THROW(run({.m = 3, .n = 4, .k = 5, .input = DType::bf16}, workspace), InternalError);
    EXPECT_THROW(run({.m = 3, .n = 4, .k = 5, .output = DType::bf16}, workspace), InternalError);
    EXPECT_THROW(run({.m = 3, .n = 4, .k = 5, .input = DType::f16, .output = DType::bf16}, workspace), InternalError);
    EXPECT_THROW(run({.m = 3, .n = 4, .k = 5}, View()), InternalError);
    on.finish();
}

// A plan asks for workspaces where there is no GPU.
TYPED_TEST(Matmuls, OnAGpuHaveAWorkspaceThatOnlySizesDecide) {
    if constexpr (std::is_same_v<TypeParam, OnCpu>)
        GTEST_SKIP() << "of GPUs";
    else {
        TypeParam on;
        const CudaStream planned = CudaStream::for_planning();
        for_each_kind([&](Matmul product) {
            for (const std::int64_t k : {0, 1, 700}) {
                std::tie(product.m, product.n, product.k) = std::tuple(5, 300, k);
                const std::int64_t bytes = kernels::matmul_workspace_bytes(planned, product);
                EXPECT_EQ(bytes, kernels::matmul_workspace_bytes(on.stream(), product));
                EXPECT_EQ(bytes > 0, k > 0);
            }
        });
        EXPECT_THROW(kernels::matmul_workspace_bytes(planned, {.output = DType::bf16}), InternalError);
    }
}

// Near the exact product, and far enough from it to see that the option reached the library.
TYPED_TEST(Matmuls, OnAGpuMayRoundFactorsToTf32) {
    if constexpr (std::is_same_v<TypeParam, OnCpu>)
        GTEST_SKIP() << "of GPUs";
    else {
        Multiplier<TypeParam> multiply(CudaOptions{.tf32 = true}), exactly;
        for (const bool transpose : {false, true}) {
            const Matmul product{.m = 65, .n = 48, .k = 200, .transpose_a = transpose, .bias = transpose};
            Case test(product), exact(product);
            const Sums expected = plain_sums(test);
            multiply(test);
            exactly(exact);
            EXPECT_TRUE(
                close_to(test.c, expected.values, tolerance(DType::f32, Kind::product_tf32), expected.magnitudes));
            EXPECT_FALSE(close_to(test.c, expected.values, tolerance(DType::f32, Kind::product), expected.magnitudes));
            EXPECT_TRUE(close_to(exact.c, expected.values, tolerance(DType::f32, Kind::product), expected.magnitudes));
        }
        Case halves({.m = 16, .n = 16, .k = 64, .input = DType::bf16}); // bf16 has fewer bits than TF32
        EXPECT_LE(error_of(multiply, halves), 1);
    }
}

// What is added to is added to once, however often the product runs to be timed; the choice holds from then on.
TYPED_TEST(Matmuls, OnAGpuMayBeTuned) {
    if constexpr (std::is_same_v<TypeParam, OnCpu>)
        GTEST_SKIP() << "of GPUs";
    else {
        Multiplier<TypeParam> multiply(CudaOptions{.tune = true});
        for_each_kind([&](Matmul product) {
            std::tie(product.m, product.n, product.k) = std::tuple(24, 40, 700);
            EXPECT_LE(error_of(multiply, Case(product)), 1) << text_of(product);
            Case first(product), second(product);
            multiply(first);
            multiply(second);
            EXPECT_TRUE(second.c.same_bits(first.c)) << text_of(product);
        });
    }
}

} // namespace matmul_test
