// SPDX-License-Identifier: Apache-2.0
// Attention and its gradient against plain loops in double (attention_plain.hpp), whose own gradient is checked by
// finite differences.
#include "kernels/attention.hpp"
#include "kernels/cuda/attention_variants.hpp"
#include "kernels/error.hpp"
#include "tests/kernels/attention_plain.hpp"
#include "tests/support/device.hpp"

#include <cmath>
#include <rapidcheck.h>

using namespace tessera;

namespace attention_test {

namespace {

using kernels::AttentionVariant;

void fill(Sample& sample, unsigned seed, double spread) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal(0, spread);
    for (std::int64_t i = 0; i < sample.count(); ++i)
        sample.set(i, normal(generator));
}

// What a kernel must overwrite, or may not read.
void poison(Sample& sample) {
    for (std::int64_t i = 0; i < sample.count(); ++i)
        sample.set(i, std::nan(""));
}

struct Workspace : Sample {
    explicit Workspace(std::int64_t bytes) : Sample(Shape{bytes / 4}, DType::f32) { poison(*this); }
};

// Where the operands lie in their memory: `shift` elements behind an address that suits vectors.
struct Operand : Sample {
    std::int64_t shift;
    Operand(const Shape& shape, DType dtype, std::int64_t elements)
        : Sample(Shape{shape.count() + elements}, dtype), shift(elements) {
        poison(*this);
    }
    View in(const View& view) const {
        auto* memory = static_cast<std::byte*>(view.memory());
        return {memory + shift * bytes_of(dtype()), Shape{count() - shift}, dtype()};
    }
    Doubles numbers() const {
        const Doubles all = values();
        return {all.begin() + shift, all.end()};
    }
};

template <class Device> std::pair<std::int64_t, std::int64_t>
workspaces(Device& on, AttentionVariant variant, const kernels::AttentionShape& shape, DType dtype) {
    if constexpr (!std::is_same_v<Device, OnCpu>)
        return {kernels::attention_workspace_bytes(on.stream(), variant, shape, dtype),
                kernels::attention_gradient_workspace_bytes(on.stream(), variant, shape, dtype)};
    else
        return {kernels::attention_workspace_bytes(on.stream(), shape, dtype),
                kernels::attention_gradient_workspace_bytes(on.stream(), shape, dtype)};
}

template <class Device> struct Result {
    Operand qkv, y, log_sum_exp, dy, dqkv;

    Result(Device& on, AttentionVariant variant, const AttentionSizes& sizes, DType dtype, double spread = 1,
           std::int64_t shift = 0, double slopes_spread = 1)
        : qkv(sizes.qkv(), dtype, shift), y(sizes.y(), dtype, shift),
          log_sum_exp(Shape{sizes.batch, sizes.heads, sizes.times}, DType::f32, shift), dy(sizes.y(), dtype, shift),
          dqkv(sizes.qkv(), dtype, shift) {
        fill(qkv, 1, spread);
        fill(dy, 2, slopes_spread);
        const kernels::AttentionShape shape = sizes.shape();
        const auto [forward_bytes, backward_bytes] = workspaces(on, variant, shape, dtype);
        const Workspace forward(forward_bytes), backward(backward_bytes);
        const View in = qkv.in(on(qkv)), out = y.in(on(y)), logarithms = log_sum_exp.in(on(log_sum_exp));
        const View slopes = dy.in(on(dy)), gradient = dqkv.in(on(dqkv));
        if (variant == AttentionVariant::fastest) {
            kernels::attention(on.stream(), shape, in, out, logarithms, on(forward));
            kernels::attention_gradient(on.stream(), shape, in, out, slopes, logarithms, gradient, on(backward));
        } else if constexpr (!std::is_same_v<Device, OnCpu>) {
            kernels::attention(on.stream(), variant, shape, in, out, logarithms, on(forward));
            kernels::attention_gradient(on.stream(), variant, shape, in, out, slopes, logarithms, gradient,
                                        on(backward));
        }
        on.finish();
    }
};

// The ways in which a device does it.
template <class Device> std::vector<AttentionVariant> variants(DType dtype) {
    if (std::is_same_v<Device, OnCpu> || dtype == DType::f32) return {AttentionVariant::fastest};
    return {AttentionVariant::fastest, AttentionVariant::general, AttentionVariant::library};
}

// The largest difference, as a share of the tolerance, which is relative to the values' own size.
double error(const Doubles& found, const Doubles& expected, double tolerance) {
    double worst = 0, square = 0;
    for (const double value : expected)
        square += value * value;
    const double size = std::sqrt(square / static_cast<double>(std::max<std::size_t>(expected.size(), 1)));
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const double share = std::abs(found[i] - expected[i]) / (tolerance * (std::abs(expected[i]) + size));
        if (!(share <= worst)) worst = share; // NaN is the worst of all
    }
    return worst;
}

// A score's rounding error grows with the sum of its products' magnitudes, not with what cancellation leaves of it; the
// softmax's relative error, and the logarithm's absolute one, is the score's absolute one. In bf16, the rounding of y
// enters the gradient through the sum of dy * y over D.
template <class Device> void expect_right(Device& on, AttentionVariant variant, const AttentionSizes& sizes,
                                          DType dtype, double spread = 1, std::int64_t shift = 0) {
    const Result<Device> run(on, variant, sizes, dtype, spread, shift);
    const Doubles qkv = run.qkv.numbers();
    const PlainAttention expected = plain_attention(sizes, qkv);
    const double score = expected.largest_score;
    const double tolerance = 1e-6 * (8 + score) + (dtype == DType::bf16 ? 1e-2 : dtype == DType::f16 ? 1.5e-3 : 0);
    const double gradient_tolerance = 2e-6 * (8 + score) + (dtype == DType::bf16  ? 6e-2
                                                            : dtype == DType::f16 ? 1e-2
                                                                                  : 0);
    EXPECT_LE(error(run.y.numbers(), expected.y, tolerance), 1) << sizes.text();
    const Doubles logarithms = run.log_sum_exp.numbers();
    for (std::size_t i = 0; i < logarithms.size(); ++i)
        EXPECT_NEAR(logarithms[i], expected.log_sum_exp[i], 1e-6 * (1 + score)) << sizes.text();
    EXPECT_LE(error(run.dqkv.numbers(), plain_gradient(sizes, qkv, run.dy.numbers()), gradient_tolerance), 1)
        << sizes.text();
}

template <class Device> class Attention : public testing::Test {};
TYPED_TEST_SUITE(Attention, Devices, DeviceNames);

} // namespace

TEST(AttentionReference, ThePlainGradientIsThatOfThePlainFunction) {
    for (const bool causal : {false, true})
        for (const std::int64_t group : {1, 2}) {
            const AttentionSizes sizes{1, 5, 2, 3, causal, 0.3, group};
            Sample qkv(sizes.qkv(), DType::f32), dy(sizes.y(), DType::f32);
            fill(qkv, 3, 1);
            fill(dy, 4, 1);
            const Doubles point = qkv.values(), slopes = dy.values(), gradient = plain_gradient(sizes, point, slopes);
            const auto loss = [&](const Doubles& x) {
                const Doubles y = plain_attention(sizes, x).y;
                return product(y, 0, slopes, 0, static_cast<std::int64_t>(y.size()));
            };
            for (std::size_t i = 0; i < point.size(); ++i)
                EXPECT_NEAR(gradient[i], slope(point, i, loss), 1e-8);
        }
}

TYPED_TEST(Attention, EqualsThePlainLoops) {
    for (const bool causal : {false, true})
        for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
            for (const std::int64_t depth : {5, 32, 64, 80})
                for (const std::int64_t times : {1, 7, 33, 130}) { // others at the edges of tiles, below
                    TypeParam on;
                    expect_right(on, AttentionVariant::fastest, {2, times, 2, depth, causal}, dtype);
                }
}

// Around the edges of tiles of 16, 64 and 128.
TYPED_TEST(Attention, EqualsThePlainLoopsAtTheEdgesOfTiles) {
    TypeParam on;
    const std::int64_t depths[] = {8, 32, 64, 80, 96, 128};
    int turn = 0;
    for (const std::int64_t times : {1, 2, 15, 16, 17, 63, 64, 65, 127, 129, 200})
        for (const bool causal : {false, true})
            for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
                for (const AttentionVariant variant : variants<TypeParam>(dtype))
                    expect_right(on, variant, {1, times, 1, depths[turn++ % 6], causal}, dtype);
}

// 16 bits with D = 64 and 128, several tiles in both directions: what training on a GPU runs. f16 and bf16 have one
// kernel: the largest sizes once.
TYPED_TEST(Attention, EqualsThePlainLoopsForSeveralTiles) {
    TypeParam on;
    for (const std::int64_t depth : {32, 64, 96, 128})
        for (const std::int64_t times : {127, 129, 200, 321})
            for (const bool causal : {false, true})
                for (const DType dtype : {DType::bf16, DType::f16})
                    if (times == 200 || (depth % 64 == 0 && dtype == DType::bf16))
                        expect_right(on, AttentionVariant::fastest, {1, times, 1, depth, causal}, dtype);
}

TYPED_TEST(Attention, GroupsOfHeadsShareKeys) {
    TypeParam on;
    for (const bool causal : {false, true})
        for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
            for (const AttentionVariant variant : variants<TypeParam>(dtype)) {
                expect_right(on, variant, {2, 70, 4, 16, causal, 0.3, 2}, dtype);
                expect_right(on, variant, {1, 131, 3, 64, causal, 0.3, 3}, dtype);
                if (variant == AttentionVariant::library) { // one head of keys, or one query head a group
                    expect_right(on, variant, {1, 20, 4, 128, causal, 0.3, 4, true}, dtype);
                    expect_right(on, variant, {2, 40, 3, 16, causal, 0.3, 1, true}, dtype);
                    continue;
                }
                expect_right(on, variant, {1, 20, 6, 128, causal, 0.3, 3}, dtype);
                expect_right(on, variant, {2, 70, 6, 16, causal, 0.3, 2, true}, dtype);
                expect_right(on, variant, {1, 131, 6, 64, causal, 0.3, 3, true}, dtype);
                expect_right(on, variant, {1, 20, 4, 128, causal, 0.3, 4, true}, dtype);
            }
}

TYPED_TEST(Attention, AnyScaleWillDo) {
    TypeParam on;
    for (const double scale : {1.0, 0.05, 0.0, -0.2})
        for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
            expect_right(on, AttentionVariant::fastest, {1, 70, 1, 32, true, scale}, dtype);
}

TYPED_TEST(Attention, MemoryNeedNotSuitVectors) {
    TypeParam on;
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
        expect_right(on, AttentionVariant::fastest, {1, 70, 2, 64, true}, dtype, 1, 1);
}

TYPED_TEST(Attention, EqualsThePlainLoopsForRandomSizes) {
    rc::check("any head", [] {
        TypeParam on;
        const std::int64_t group = *rc::gen::inRange(1, 3);
        const AttentionSizes sizes{*rc::gen::inRange(1, 3),
                                   *rc::gen::inRange(1, 90),
                                   group * *rc::gen::inRange(1, 3),
                                   *rc::gen::inRange(1, 70),
                                   *rc::gen::arbitrary<bool>(),
                                   0.3,
                                   group};
        expect_right(on, AttentionVariant::fastest, sizes, *rc::gen::element(DType::f32, DType::bf16, DType::f16));
        RC_ASSERT(!testing::Test::HasFailure());
    });
}

// More keys than fit one block: the running maximum and sum.
TYPED_TEST(Attention, EqualsThePlainLoopsForManyKeys) {
    TypeParam on;
    for (const bool causal : {false, true}) {
        expect_right(on, AttentionVariant::fastest, {1, 1060, 1, 16, causal}, DType::f32);
        expect_right(on, AttentionVariant::fastest, {1, 521, 1, 256, causal}, DType::f32);
    }
}

// Scores of several hundred overflow e^x without the largest taken off first.
TYPED_TEST(Attention, LargeScoresDoNotOverflow) {
    TypeParam on;
    for (const bool causal : {false, true})
        expect_right(on, AttentionVariant::fastest, {1, 600, 1, 8, causal}, DType::f32, 12);
}

TYPED_TEST(Attention, LargeScoresOf16BitsDoNotOverflow) {
    TypeParam on;
    for (const DType dtype : {DType::bf16, DType::f16})
        for (const bool causal : {false, true}) {
            const AttentionSizes sizes{1, 200, 1, 32, causal, 1};
            const Result<TypeParam> run(on, AttentionVariant::fastest, sizes, dtype, 12);
            for (const double value : run.dqkv.numbers())
                EXPECT_TRUE(std::isfinite(value)) << sizes.text();
            EXPECT_LE(error(run.y.numbers(), plain_attention(sizes, run.qkv.numbers()).y, 2e-2), 1) << sizes.text();
        }
}

// Gradients of queries that a loss scale has made too large for f16 on their way, though not in the end: they are
// right, or no finite numbers, so that the step is skipped.
TYPED_TEST(Attention, OverflowOfF16IsSeen) {
    TypeParam on;
    const AttentionSizes sizes{1, 40, 1, 64, true, 0.002};
    for (const double times : {1.0, 300.0, 8000.0}) {
        const Result<TypeParam> run(on, AttentionVariant::fastest, sizes, DType::f16, 4, 0, times);
        const Doubles expected = plain_gradient(sizes, run.qkv.numbers(), run.dy.numbers()), found = run.dqkv.numbers();
        double largest = 0;
        int finite = 0;
        const auto each = [&](const auto& work) {
            for (std::int64_t query = 0; query < sizes.times; ++query)
                for (std::size_t d = 0; d < 64; ++d)
                    work(sizes.q(0, query, 0) + d);
        };
        each([&](std::size_t i) { largest = std::max(largest, std::abs(expected[i])); });
        ASSERT_LT(largest, 65504);
        each([&](std::size_t i) {
            if (!std::isfinite(found[i])) return;
            ++finite;
            EXPECT_NEAR(found[i], expected[i], 0.01 * largest) << i << " times " << times;
        });
        EXPECT_GE(finite, times == 1 ? 40 * 64 : 64) << "the first query sees one key, with a slope of 0";
    }
}

TYPED_TEST(Attention, NotANumberIsNotLost) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
        for (const AttentionVariant variant : variants<TypeParam>(dtype)) {
            TypeParam on;
            const AttentionSizes sizes{1, 9, 1, 16, true, 1};
            Sample qkv(sizes.qkv(), dtype), y(sizes.y(), dtype), log_sum_exp(Shape{9}, DType::f32);
            fill(qkv, 1, 1);
            qkv.set(static_cast<std::int64_t>(sizes.k(0, 4, 0)) + 3, std::nan("")); // a key that queries 4 to 8 see
            const Workspace workspace(workspaces(on, variant, sizes.shape(), dtype).first);
            if constexpr (std::is_same_v<TypeParam, OnCpu>)
                kernels::attention(on.stream(), sizes.shape(), on(qkv), on(y), on(log_sum_exp), on(workspace));
            else
                kernels::attention(on.stream(), variant, sizes.shape(), on(qkv), on(y), on(log_sum_exp), on(workspace));
            on.finish();
            for (std::int64_t query = 0; query < 9; ++query)
                EXPECT_EQ(std::isnan(y.values()[sizes.y(0, query, 0)]), query >= 4) << query;
        }
}

TYPED_TEST(Attention, SameBitsInTwoRuns) {
    for (const bool causal : {false, true})
        for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
            for (const AttentionVariant variant : variants<TypeParam>(dtype)) {
                TypeParam on;
                const AttentionSizes sizes{1, 150, 4, 64, causal, 0.3, 2};
                const Result<TypeParam> one(on, variant, sizes, dtype), two(on, variant, sizes, dtype);
                EXPECT_TRUE(one.y.same_bits(two.y));
                EXPECT_TRUE(one.log_sum_exp.same_bits(two.log_sum_exp));
                EXPECT_TRUE(one.dqkv.same_bits(two.dqkv));
            }
}

#if TESSERA_CUDA
template <class Device> class AttentionByLibrary : public testing::Test {};
TYPED_TEST_SUITE(AttentionByLibrary, testing::Types<OnCuda>, DeviceNames);

// Other bits than ours: the library took it, forward and backward.
TYPED_TEST(AttentionByLibrary, TakesWhatItCan) {
    TypeParam on;
    for (const DType dtype : {DType::bf16, DType::f16}) {
        const AttentionSizes sizes{1, 90, 2, 64, true, 0.3};
        const Result<TypeParam> ours(on, AttentionVariant::fastest, sizes, dtype);
        const Result<TypeParam> theirs(on, AttentionVariant::library, sizes, dtype);
        EXPECT_FALSE(ours.y.same_bits(theirs.y)) << name_of(dtype);
        EXPECT_FALSE(ours.dqkv.same_bits(theirs.dqkv)) << name_of(dtype);
    }
}

// Other bits than those of the multiply-adds: the tensor cores did it, in both dtypes.
TYPED_TEST(AttentionByLibrary, OursRunOnTensorCores) {
    TypeParam on;
    for (const DType dtype : {DType::bf16, DType::f16}) {
        const AttentionSizes sizes{1, 90, 2, 64, true, 0.3};
        const Result<TypeParam> cores(on, AttentionVariant::fastest, sizes, dtype);
        const Result<TypeParam> plain(on, AttentionVariant::general, sizes, dtype);
        EXPECT_FALSE(cores.y.same_bits(plain.y)) << name_of(dtype);
        EXPECT_FALSE(cores.dqkv.same_bits(plain.dqkv)) << name_of(dtype);
    }
}

// Where a stream is to tune, the fastest is found by measurement, and right.
TYPED_TEST(AttentionByLibrary, TuningKeepsTheResult) {
    TypeParam on(CudaOptions{.tune = true});
    for (int turn = 0; turn < 2; ++turn)
        expect_right(on, AttentionVariant::fastest, {1, 70, 4, 64, true, 0.3, 2}, DType::bf16);
}
#endif

TEST(AttentionThreads, SameBitsForAnyNumberOfThreads) {
    for (const bool causal : {false, true})
        for (const DType dtype : {DType::f32, DType::bf16})
            for (const std::int64_t group : {1, 3}) {
                const AttentionSizes sizes{3, 70, 3, 24, causal, 0.3, group};
                OnCpu first(1);
                const Result<OnCpu> one(first, AttentionVariant::fastest, sizes, dtype);
                for (const int threads : {2, 3, 16}) {
                    OnCpu on(threads);
                    const Result<OnCpu> several(on, AttentionVariant::fastest, sizes, dtype);
                    EXPECT_TRUE(one.y.same_bits(several.y));
                    EXPECT_TRUE(one.log_sum_exp.same_bits(several.log_sum_exp));
                    EXPECT_TRUE(one.dqkv.same_bits(several.dqkv));
                }
            }
}

TYPED_TEST(Attention, NothingToDo) {
    TypeParam on;
    for (const AttentionSizes& sizes : {AttentionSizes{0, 5, 2, 8, true}, AttentionSizes{2, 0, 2, 8, true}})
        for (const DType dtype : {DType::f32, DType::bf16})
            expect_right(on, AttentionVariant::fastest, sizes, dtype);
}

// Blocks are numbered by an int: more of them must not become fewer.
TYPED_TEST(Attention, SizesBeyondAnIntAreRefused) {
    TypeParam on;
    const auto bytes = [&](std::int64_t batch, std::int64_t tokens, std::int64_t heads) {
        const kernels::AttentionShape shape{batch, tokens, heads, heads, 64, 0.125f, true};
        return kernels::attention_gradient_workspace_bytes(on.stream(), shape, DType::bf16);
    };
    constexpr std::int64_t much = std::int64_t{1} << 30;
    EXPECT_GT(bytes(1, much, 1), 0);
    EXPECT_GT(bytes(much, 8, 1), 0);
    EXPECT_THROW(bytes(1, much + 1, 1), InternalError);
    EXPECT_THROW(bytes(1, much, 16), InternalError);
    EXPECT_THROW(bytes(16, much, 1), InternalError);
    EXPECT_THROW(bytes(4 * much, 1, much), InternalError);
}

TYPED_TEST(Attention, WrongViewsAreRefused) {
    TypeParam on;
    const AttentionSizes sizes{1, 4, 2, 8, true};
    kernels::AttentionShape shape = sizes.shape();
    const Sample qkv(sizes.qkv(), DType::f32), y(sizes.y(), DType::f32), log_sum_exp(Shape{8}, DType::f32);
    const Sample small(Shape{1, 4, 2, 7}, DType::f32), half(sizes.y(), DType::bf16);
    const Workspace forward(kernels::attention_workspace_bytes(on.stream(), shape, DType::f32));
    const Workspace backward(kernels::attention_gradient_workspace_bytes(on.stream(), shape, DType::f32));
    const auto run = [&](const View& from, const View& to, const View& memory) {
        kernels::attention(on.stream(), shape, from, to, on(log_sum_exp), memory);
    };
    const auto differentiate = [&](const View& from, const View& dy, const View& to, const View& memory) {
        kernels::attention_gradient(on.stream(), shape, from, on(y), dy, on(log_sum_exp), to, memory);
    };
    EXPECT_NO_THROW(run(on(qkv), on(y), on(forward)));
    EXPECT_THROW(run(on(y), on(y), on(forward)), InternalError);
    EXPECT_THROW(run(on(qkv), on(small), on(forward)), InternalError);
    EXPECT_THROW(run(on(qkv), on(half), on(forward)), InternalError);
    if (forward.count() > 0) {
        EXPECT_THROW(run(on(qkv), on(y), View()), InternalError);
    }
    EXPECT_NO_THROW(differentiate(on(qkv), on(y), on(qkv), on(backward)));
    EXPECT_THROW(differentiate(on(qkv), on(small), on(qkv), on(backward)), InternalError);
    EXPECT_THROW(differentiate(on(qkv), on(y), on(y), on(backward)), InternalError);
    EXPECT_THROW(differentiate(on(qkv), on(y), on(qkv), View()), InternalError);
    const auto refused = [&](const kernels::AttentionShape& wrong, DType dtype) {
        EXPECT_THROW(kernels::attention_workspace_bytes(on.stream(), wrong, dtype), InternalError);
        EXPECT_THROW(kernels::attention_gradient_workspace_bytes(on.stream(), wrong, dtype), InternalError);
    };
    refused(AttentionSizes{1, 4, 2, 257, true}.shape(), DType::f32);
    refused(sizes.shape(), DType::i32);
    shape.kv_heads = 3;
    refused(shape, DType::f32);
    shape.kv_heads = 0;
    refused(shape, DType::f32);
    on.finish();
}

} // namespace attention_test
