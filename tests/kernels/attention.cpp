// SPDX-License-Identifier: Apache-2.0
// Attention and its gradient against plain loops in double, whose own gradient is checked by finite differences.
#include "kernels/attention.hpp"
#include "kernels/error.hpp"
#include "kernels/memory.hpp"

#include <cmath>
#include <cstring>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <random>
#include <rapidcheck.h>
#include <vector>

using namespace tessera;

namespace {

using Doubles = std::vector<double>;

struct Sizes {
    std::int64_t batch, times, heads, depth;
    bool causal;
    double scale = 0.3;

    Shape qkv() const { return Shape{batch, times, 3, heads, depth}; }
    Shape y() const { return Shape{batch, times, heads, depth}; }
    std::size_t at(std::int64_t b, std::int64_t t, int part, std::int64_t h, std::int64_t d) const {
        return static_cast<std::size_t>((((b * times + t) * 3 + part) * heads + h) * depth + d);
    }
    std::size_t at(std::int64_t b, std::int64_t t, std::int64_t h, std::int64_t d) const {
        return static_cast<std::size_t>(((b * times + t) * heads + h) * depth + d);
    }
    std::int64_t keys(std::int64_t query) const { return causal ? query + 1 : times; }
    std::string text() const {
        return fmt::format("B {} T {} H {} D {} causal {}", batch, times, heads, depth, causal);
    }
};

// p[s] of one query, and the logarithm of its denominator.
double softmax(const Sizes& sizes, const Doubles& qkv, std::int64_t b, std::int64_t h, std::int64_t query, Doubles& p) {
    p.assign(static_cast<std::size_t>(sizes.keys(query)), 0);
    double largest = -1e300, sum = 0;
    for (std::size_t s = 0; s < p.size(); ++s) {
        for (std::int64_t d = 0; d < sizes.depth; ++d)
            p[s] += sizes.scale * qkv[sizes.at(b, query, 0, h, d)] *
                    qkv[sizes.at(b, static_cast<std::int64_t>(s), 1, h, d)];
        largest = std::max(largest, p[s]);
    }
    for (double& score : p)
        sum += score = std::exp(score - largest);
    for (double& share : p)
        share /= sum;
    return largest + std::log(sum);
}

struct Forward {
    Doubles y, log_sum_exp;
};

template <class Visit> void for_each_query(const Sizes& sizes, const Visit& visit) {
    for (std::int64_t b = 0; b < sizes.batch; ++b)
        for (std::int64_t h = 0; h < sizes.heads; ++h)
            for (std::int64_t query = 0; query < sizes.times; ++query)
                visit(b, h, query);
}

Forward plain_attention(const Sizes& sizes, const Doubles& qkv) {
    Forward result{Doubles(qkv.size() / 3), {}};
    Doubles p;
    for_each_query(sizes, [&](std::int64_t b, std::int64_t h, std::int64_t query) {
        result.log_sum_exp.push_back(softmax(sizes, qkv, b, h, query, p));
        for (std::size_t s = 0; s < p.size(); ++s)
            for (std::int64_t d = 0; d < sizes.depth; ++d)
                result.y[sizes.at(b, query, h, d)] += p[s] * qkv[sizes.at(b, static_cast<std::int64_t>(s), 2, h, d)];
    });
    return result;
}

Doubles plain_gradient(const Sizes& sizes, const Doubles& qkv, const Doubles& dy) {
    Doubles gradient(qkv.size()), p;
    for_each_query(sizes, [&](std::int64_t b, std::int64_t h, std::int64_t query) {
        softmax(sizes, qkv, b, h, query, p);
        Doubles dp(p.size());
        double mean = 0;
        for (std::size_t s = 0; s < p.size(); ++s)
            for (std::int64_t d = 0; d < sizes.depth; ++d) {
                const double slope = dy[sizes.at(b, query, h, d)];
                const std::size_t value = sizes.at(b, static_cast<std::int64_t>(s), 2, h, d);
                dp[s] += slope * qkv[value];
                mean += p[s] * slope * qkv[value];
                gradient[value] += p[s] * slope;
            }
        for (std::size_t s = 0; s < p.size(); ++s)
            for (std::int64_t d = 0; d < sizes.depth; ++d) {
                const double ds = sizes.scale * p[s] * (dp[s] - mean);
                const std::size_t q = sizes.at(b, query, 0, h, d),
                                  k = sizes.at(b, static_cast<std::int64_t>(s), 1, h, d);
                gradient[q] += ds * qkv[k];
                gradient[k] += ds * qkv[q];
            }
    });
    return gradient;
}

// Memory of a kernel's operand; bf16 is what is left of the floats.
struct Tensor {
    Shape shape;
    DType dtype;
    Buffer memory;

    Tensor(const Shape& sizes, DType type) : shape(sizes), dtype(type), memory(sizes.count() * bytes_of(type)) {}
    View view() const { return View(memory.data(), shape, dtype); }
    void set(std::int64_t i, double value) {
        if (dtype == DType::f32)
            view().as<float>()[i] = static_cast<float>(value);
        else
            view().as<BFloat16>()[i] = BFloat16(static_cast<float>(value));
    }
    Doubles values() const {
        Doubles result;
        for (std::int64_t i = 0; i < shape.count(); ++i)
            result.push_back(dtype == DType::f32 ? view().as<float>()[i]
                                                 : static_cast<float>(view().as<BFloat16>()[i]));
        return result;
    }
    void fill(std::uint32_t seed, double spread) {
        std::mt19937 generator(seed);
        std::normal_distribution<double> normal(0, spread);
        for (std::int64_t i = 0; i < shape.count(); ++i)
            set(i, normal(generator));
    }
    bool same_bits(const Tensor& other) const {
        return std::memcmp(memory.data(), other.memory.data(), static_cast<std::size_t>(memory.bytes())) == 0;
    }
};

// A workspace full of NaNs, with a guard behind it.
struct Workspace {
    std::int64_t bytes;
    Buffer memory;

    explicit Workspace(std::int64_t wanted) : bytes(wanted), memory(wanted + 4096) {
        std::memset(memory.data(), 0xff, static_cast<std::size_t>(wanted + 4096));
    }
    ~Workspace() {
        for (std::int64_t i = bytes; i < bytes + 4096; ++i)
            if (memory.data()[i] != std::byte{0xff}) {
                ADD_FAILURE() << "written behind the workspace";
                break;
            }
    }
    View view() const { return View(memory.data(), Shape{bytes / 4}, DType::f32); }
};

struct Result {
    Tensor qkv, y, log_sum_exp, dy, dqkv;

    Result(const Sizes& sizes, DType dtype, int threads, double spread = 1)
        : qkv(sizes.qkv(), dtype), y(sizes.y(), dtype),
          log_sum_exp(Shape{sizes.batch, sizes.heads, sizes.times}, DType::f32), dy(sizes.y(), dtype),
          dqkv(sizes.qkv(), dtype) {
        qkv.fill(1, spread);
        dy.fill(2, 1);
        CpuStream stream(threads);
        const auto scale = static_cast<float>(sizes.scale);
        const Workspace forward(kernels::attention_workspace_bytes(stream, qkv.shape, dtype));
        kernels::attention(stream, qkv.view(), scale, sizes.causal, y.view(), log_sum_exp.view(), forward.view());
        const Workspace backward(kernels::attention_gradient_workspace_bytes(stream, qkv.shape, dtype));
        kernels::attention_gradient(stream, qkv.view(), y.view(), dy.view(), log_sum_exp.view(), scale, sizes.causal,
                                    dqkv.view(), backward.view());
    }
};

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

// A score's rounding error grows with the score, and the softmax's relative error is the score's absolute one. In bf16,
// the rounding of y enters the gradient through the sum of dy * y over D.
void expect_right(const Sizes& sizes, DType dtype, int threads, double spread = 1) {
    const Result run(sizes, dtype, threads, spread);
    const Doubles qkv = run.qkv.values();
    const Forward expected = plain_attention(sizes, qkv);
    double largest = 0;
    for (const double logarithm : expected.log_sum_exp)
        largest = std::max(largest, std::abs(logarithm));
    const double tolerance = 1e-6 * (8 + largest) + (dtype == DType::bf16 ? 1e-2 : 0);
    const double gradient_tolerance = 2e-6 * (8 + largest) + (dtype == DType::bf16 ? 6e-2 : 0);
    EXPECT_LE(error(run.y.values(), expected.y, tolerance), 1) << sizes.text();
    EXPECT_LE(error(run.log_sum_exp.values(), expected.log_sum_exp, 1e-6), 1) << sizes.text();
    EXPECT_LE(error(run.dqkv.values(), plain_gradient(sizes, qkv, run.dy.values()), gradient_tolerance), 1)
        << sizes.text();
}

} // namespace

TEST(Attention, ThePlainGradientIsThatOfThePlainFunction) {
    for (const bool causal : {false, true}) {
        const Sizes sizes{1, 5, 2, 3, causal};
        Tensor qkv(sizes.qkv(), DType::f32), dy(sizes.y(), DType::f32);
        qkv.fill(3, 1);
        dy.fill(4, 1);
        const Doubles point = qkv.values(), slopes = dy.values(), gradient = plain_gradient(sizes, point, slopes);
        const auto loss = [&](std::size_t i, double step) {
            Doubles moved = point;
            moved[i] += step;
            const Doubles y = plain_attention(sizes, moved).y;
            double sum = 0;
            for (std::size_t j = 0; j < y.size(); ++j)
                sum += y[j] * slopes[j];
            return sum;
        };
        for (std::size_t i = 0; i < point.size(); ++i)
            EXPECT_NEAR(gradient[i], (loss(i, 1e-5) - loss(i, -1e-5)) / 2e-5, 1e-8);
    }
}

TEST(Attention, EqualsThePlainLoops) {
    for (const bool causal : {false, true})
        for (const DType dtype : {DType::f32, DType::bf16})
            for (const std::int64_t depth : {5, 32, 64, 80})
                for (const std::int64_t times : {1, 7, 8, 33, 64, 130})
                    expect_right({2, times, 2, depth, causal}, dtype, 1 + times % 3);
}

TEST(Attention, EqualsThePlainLoopsForRandomSizes) {
    rc::check("any head", [] {
        const Sizes sizes{*rc::gen::inRange(1, 3), *rc::gen::inRange(1, 90), *rc::gen::inRange(1, 4),
                          *rc::gen::inRange(1, 70), *rc::gen::arbitrary<bool>()};
        expect_right(sizes, *rc::gen::element(DType::f32, DType::bf16), *rc::gen::inRange(1, 4));
        RC_ASSERT(!testing::Test::HasFailure());
    });
}

// More keys than fit one block: the running maximum and sum.
TEST(Attention, EqualsThePlainLoopsForManyKeys) {
    for (const bool causal : {false, true}) {
        expect_right({1, 1060, 1, 16, causal}, DType::f32, 1);
        expect_right({1, 521, 1, 256, causal}, DType::f32, 1);
    }
}

// Scores of several hundred overflow e^x without the largest taken off first.
TEST(Attention, LargeScoresDoNotOverflow) {
    for (const bool causal : {false, true})
        expect_right({1, 600, 1, 8, causal}, DType::f32, 1, 12);
}

TEST(Attention, NotANumberIsNotLost) {
    const Sizes sizes{1, 9, 1, 16, true};
    Tensor qkv(sizes.qkv(), DType::f32), y(sizes.y(), DType::f32), log_sum_exp(Shape{9}, DType::f32);
    qkv.fill(1, 1);
    qkv.set(static_cast<std::int64_t>(sizes.at(0, 4, 1, 0, 3)), std::nan("")); // a key that queries 4 to 8 see
    CpuStream stream;
    const Workspace workspace(kernels::attention_workspace_bytes(stream, qkv.shape, DType::f32));
    kernels::attention(stream, qkv.view(), 1, true, y.view(), log_sum_exp.view(), workspace.view());
    for (std::int64_t query = 0; query < 9; ++query)
        EXPECT_EQ(std::isnan(y.values()[sizes.at(0, query, 0, 0)]), query >= 4) << query;
}

TEST(Attention, SameBitsForAnyNumberOfThreads) {
    for (const bool causal : {false, true})
        for (const DType dtype : {DType::f32, DType::bf16}) {
            const Sizes sizes{3, 70, 3, 24, causal};
            const Result one(sizes, dtype, 1);
            for (const int threads : {2, 3, 16}) {
                const Result several(sizes, dtype, threads);
                EXPECT_TRUE(one.y.same_bits(several.y));
                EXPECT_TRUE(one.log_sum_exp.same_bits(several.log_sum_exp));
                EXPECT_TRUE(one.dqkv.same_bits(several.dqkv));
            }
        }
}

TEST(Attention, WrongViewsAreRefused) {
    CpuStream stream;
    const Sizes sizes{1, 4, 2, 8, true};
    const Tensor qkv(sizes.qkv(), DType::f32), y(sizes.y(), DType::f32), log_sum_exp(Shape{8}, DType::f32);
    const Tensor small(Shape{1, 4, 2, 7}, DType::f32), half(sizes.y(), DType::bf16);
    const Workspace workspace(kernels::attention_workspace_bytes(stream, qkv.shape, DType::f32));
    const auto run = [&](const View& from, const View& to, const View& memory) {
        kernels::attention(stream, from, 1, true, to, log_sum_exp.view(), memory);
    };
    EXPECT_NO_THROW(run(qkv.view(), y.view(), workspace.view()));
    EXPECT_THROW(run(y.view(), y.view(), workspace.view()), InternalError);
    EXPECT_THROW(run(qkv.view(), small.view(), workspace.view()), InternalError);
    EXPECT_THROW(run(qkv.view(), half.view(), workspace.view()), InternalError);
    EXPECT_THROW(run(qkv.view(), y.view(), View()), InternalError);
    EXPECT_THROW(kernels::attention_workspace_bytes(stream, Shape{1, 4, 3, 2, 257}, DType::f32), InternalError);
}
