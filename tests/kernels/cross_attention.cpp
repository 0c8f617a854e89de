// SPDX-License-Identifier: Apache-2.0
// Attention over other keys, within segments and with a bias by distance, and its gradients, against plain loops in
// double, whose own gradients are checked by finite differences.
#include "kernels/cross_attention.hpp"
#include "kernels/attention.hpp"
#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <cmath>
#include <fmt/format.h>

using namespace tessera;

namespace cross_attention_test {

namespace {

using Doubles = std::vector<double>;
using kernels::CrossAttentionShape;

std::string text(const CrossAttentionShape& s) {
    return fmt::format("B {} T {} S {} H {} G {} D {} causal {} packed {} segments {} bias {} by group {}", s.batch,
                       s.queries, s.keys, s.heads, s.kv_heads, s.head_dim, s.causal, s.packed, s.segments, s.bias,
                       s.by_group);
}

std::int64_t at_q(const CrossAttentionShape& s, std::int64_t b, std::int64_t t, std::int64_t h) {
    const std::int64_t before = s.by_group ? h / s.group() * 2 : 0; // keys and values of the groups before
    return ((b * s.queries + t) * s.q_heads() + h + before) * s.head_dim;
}
// Of a key, or with `value` of its value, in the tensor that holds it.
std::int64_t at_kv(const CrossAttentionShape& s, std::int64_t b, std::int64_t t, std::int64_t h, bool value) {
    const std::int64_t group = h / s.group();
    const std::int64_t head = s.by_group ? (group + 1) * (s.group() + 2) - (value ? 1 : 2)
                                         : group + (value ? s.kv_heads : 0) + (s.packed ? s.heads : 0);
    return ((b * s.keys + t) * (s.packed ? s.q_heads() : 2 * s.kv_heads) + head) * s.head_dim;
}

struct Numbers {
    Doubles q, kv, bias, segments, key_segments;
    const Doubles& keys(const CrossAttentionShape& s) const { return s.packed ? q : kv; }
};

double product(const Doubles& a, std::int64_t i, const Doubles& b, std::int64_t j, std::int64_t count) {
    double sum = 0;
    for (std::int64_t d = 0; d < count; ++d)
        sum += a[static_cast<std::size_t>(i + d)] * b[static_cast<std::size_t>(j + d)];
    return sum;
}
void add(Doubles& a, std::int64_t i, double factor, const Doubles& b, std::int64_t j, std::int64_t count) {
    for (std::int64_t d = 0; d < count; ++d)
        a[static_cast<std::size_t>(i + d)] += factor * b[static_cast<std::size_t>(j + d)];
}

Doubles softmax(const CrossAttentionShape& s, const Numbers& in, std::int64_t b, std::int64_t h, std::int64_t t) {
    Doubles p(static_cast<std::size_t>(s.keys));
    double sum = 0;
    for (std::int64_t key = 0; key < (s.causal ? std::min(t + 1, s.keys) : s.keys); ++key) {
        const auto at = [](const Doubles& segments, std::int64_t i) { return segments[static_cast<std::size_t>(i)]; };
        if (s.segments && at(in.segments, b * s.queries + t) != at(in.key_segments, b * s.keys + key)) continue;
        double score = s.scale * product(in.q, at_q(s, b, t, h), in.keys(s), at_kv(s, b, key, h, false), s.head_dim);
        if (s.bias) score += at(in.bias, (key - t + s.queries - 1) * s.heads + h);
        sum += p[static_cast<std::size_t>(key)] = std::exp(score);
    }
    for (double& share : p)
        if (sum > 0) share /= sum;
    return p;
}

template <class Visit> void for_each_query(const CrossAttentionShape& s, const Visit& visit) {
    for (std::int64_t b = 0; b < s.batch; ++b)
        for (std::int64_t t = 0; t < s.queries; ++t)
            for (std::int64_t h = 0; h < s.heads; ++h)
                visit(b, t, h, ((b * s.queries + t) * s.heads + h) * s.head_dim);
}

Doubles plain(const CrossAttentionShape& s, const Numbers& in) {
    Doubles y(static_cast<std::size_t>(s.y_count()));
    for_each_query(s, [&](std::int64_t b, std::int64_t t, std::int64_t h, std::int64_t row) {
        const Doubles p = softmax(s, in, b, h, t);
        for (std::int64_t key = 0; key < s.keys; ++key)
            add(y, row, p[static_cast<std::size_t>(key)], in.keys(s), at_kv(s, b, key, h, true), s.head_dim);
    });
    return y;
}

Numbers plain_gradient(const CrossAttentionShape& s, const Numbers& in, const Doubles& dy) {
    Numbers out{Doubles(in.q.size()), Doubles(in.kv.size()), Doubles(in.bias.size()), {}, {}};
    Doubles& keys = s.packed ? out.q : out.kv;
    for_each_query(s, [&](std::int64_t b, std::int64_t t, std::int64_t h, std::int64_t row) {
        const Doubles p = softmax(s, in, b, h, t);
        Doubles dp;
        double mean = 0;
        for (std::int64_t key = 0; key < s.keys; ++key) {
            const double share = p[static_cast<std::size_t>(key)];
            dp.push_back(product(dy, row, in.keys(s), at_kv(s, b, key, h, true), s.head_dim));
            mean += share * dp.back();
            add(keys, at_kv(s, b, key, h, true), share, dy, row, s.head_dim);
        }
        for (std::int64_t key = 0; key < s.keys; ++key) {
            const auto i = static_cast<std::size_t>(key);
            const double ds = p[i] * (dp[i] - mean);
            add(out.q, at_q(s, b, t, h), ds * s.scale, in.keys(s), at_kv(s, b, key, h, false), s.head_dim);
            add(keys, at_kv(s, b, key, h, false), ds * s.scale, in.q, at_q(s, b, t, h), s.head_dim);
            if (s.bias) out.bias[static_cast<std::size_t>((key - t + s.queries - 1) * s.heads + h)] += ds;
        }
    });
    return out;
}

Sample random_sample(std::int64_t count, DType dtype, unsigned seed) { return {Shape{count}, dtype, seed, -1.5, 1.5}; }

// Segments of a few neighbours each, 0 for the last: a packed document, and padding.
Sample some_segments(std::int64_t batch, std::int64_t times, std::int64_t length) {
    Sample segments(Shape{batch * times}, DType::i32);
    for (std::int64_t i = 0; i < segments.count(); ++i)
        segments.set(i, static_cast<double>(i % times + 3 >= times ? 0 : 1 + i % times / length));
    return segments;
}

struct Workspace : Sample {
    explicit Workspace(std::int64_t bytes) : Sample(Shape{bytes / 4}, DType::f32) {
        for (std::int64_t i = 0; i < count(); ++i)
            set(i, std::nan(""));
    }
};

template <class Device> struct Result {
    Sample q, kv, segments, key_segments, bias, y, log_sum_exp, dy, dq, dkv, dbias;

    Result(Device& on, const CrossAttentionShape& s, DType dtype)
        : q(random_sample(s.q_count(), dtype, 1)), kv(random_sample(s.kv_count(), dtype, 2)),
          segments(some_segments(s.batch, s.queries, 5)),
          key_segments(some_segments(s.batch, s.keys, s.packed ? 5 : 4)),
          bias(random_sample(s.bias_count(), DType::f32, 3)), y(Shape{s.y_count()}, dtype),
          log_sum_exp(Shape{s.row_count()}, DType::f32), dy(random_sample(s.y_count(), dtype, 4)),
          dq(Shape{s.q_count()}, dtype), dkv(Shape{s.kv_count()}, dtype), dbias(Shape{s.bias_count()}, DType::f32) {
        const Workspace forward(kernels::cross_attention_workspace_bytes(on.stream(), s, dtype));
        const Workspace backward(kernels::cross_attention_gradient_workspace_bytes(on.stream(), s, dtype));
        const kernels::CrossAttentionInputs in{
            on(q), s.packed ? ConstView() : on(kv), s.segments ? on(segments) : ConstView(),
            s.segments ? on(key_segments) : ConstView(), s.bias ? on(bias) : ConstView()};
        kernels::cross_attention(on.stream(), s, in, on(y), on(log_sum_exp), on(forward));
        kernels::cross_attention_gradient(on.stream(), s, in, on(y), on(dy), on(log_sum_exp),
                                          {on(dq), s.packed ? View() : on(dkv), s.bias ? on(dbias) : View()},
                                          on(backward));
        on.finish();
    }
    Numbers numbers() const {
        return {q.values(), kv.values(), bias.values(), segments.values(), key_segments.values()};
    }
};

// The largest difference, relative to the values' own size.
double error(const Sample& found, const Doubles& expected) {
    double worst = 0, square = 1e-2; // values that cancel to nothing are as wrong as their summands
    for (const double value : expected)
        square += value * value / static_cast<double>(expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const double share =
            std::abs(found[static_cast<std::int64_t>(i)] - expected[i]) / (std::abs(expected[i]) + std::sqrt(square));
        if (!(share <= worst)) worst = share; // NaN is the worst of all
    }
    return worst;
}

template <class Device> void expect_right(Device& on, const CrossAttentionShape& s, DType dtype = DType::f32) {
    const Result<Device> run(on, s, dtype);
    const Numbers in = run.numbers();
    const double allowed = dtype == DType::f32 ? 4e-5 : dtype == DType::bf16 ? 6e-2 : 1e-2; // as attention's
    EXPECT_LE(error(run.y, plain(s, in)), allowed) << text(s);
    const Numbers expected = plain_gradient(s, in, run.dy.values());
    EXPECT_LE(error(run.dq, expected.q), allowed) << text(s);
    EXPECT_LE(error(run.dkv, expected.kv), allowed) << text(s);
    EXPECT_LE(error(run.dbias, expected.bias), allowed) << text(s);
}

// With all four of the marks, and a bit of each size.
std::vector<CrossAttentionShape> shapes() {
    std::vector<CrossAttentionShape> all;
    const std::int64_t sizes[][6] = {{2, 5, 9, 2, 2, 8},    {1, 1, 33, 2, 1, 16},   {2, 33, 7, 4, 2, 5},
                                     {1, 70, 65, 2, 2, 24}, {1, 64, 130, 1, 1, 64}, {1, 130, 20, 2, 2, 80}};
    for (const auto& [batch, queries, keys, heads, kv_heads, depth] : sizes)
        for (int marks = 0; marks < 16; ++marks) {
            const bool packed = (marks & 8) != 0;
            all.push_back({batch, queries, packed ? queries : keys, heads, kv_heads, depth, 0.4f, (marks & 4) != 0,
                           packed, (marks & 1) != 0, (marks & 2) != 0});
            if (!packed || kv_heads == heads) continue;
            all.push_back(all.back());
            all.back().by_group = true;
        }
    return all;
}

template <class Device> class CrossAttention : public testing::Test {};
TYPED_TEST_SUITE(CrossAttention, Devices, DeviceNames);

} // namespace

TEST(CrossAttentionReference, ThePlainGradientIsThatOfThePlainFunction) {
    for (const bool packed : {false, true}) {
        const CrossAttentionShape s{2, 6, packed ? 6 : 7, 2, 1, 3, 0.4f, packed, packed, true, true};
        OnCpu on;
        const Result<OnCpu> run(on, s, DType::f32);
        const Numbers in = run.numbers();
        const Doubles dy = run.dy.values();
        const Numbers gradient = plain_gradient(s, in, dy);
        const auto check = [&](Doubles Numbers::*member) {
            const auto loss = [&](const Doubles& x) {
                Numbers moved = in;
                moved.*member = x;
                const Doubles y = plain(s, moved);
                return product(y, 0, dy, 0, s.y_count());
            };
            for (std::size_t i = 0; i < (in.*member).size(); ++i)
                EXPECT_NEAR((gradient.*member)[i], slope(in.*member, i, loss), 1e-8);
        };
        check(&Numbers::q);
        if (!packed) check(&Numbers::kv);
        check(&Numbers::bias);
    }
}

TYPED_TEST(CrossAttention, EqualsThePlainLoops) {
    TypeParam on;
    for (const CrossAttentionShape& shape : shapes())
        expect_right(on, shape);
}

TYPED_TEST(CrossAttention, EqualsThePlainLoopsInHalves) {
    TypeParam on;
    for (const DType dtype : {DType::bf16, DType::f16})
        for (const bool packed : {false, true})
            expect_right(on, {2, 35, packed ? 35 : 20, 2, 1, 16, 0.3f, packed, packed, true, true}, dtype);
}

// More keys than fit one block of the CPU, the first of which belong to other segments.
TYPED_TEST(CrossAttention, EqualsThePlainLoopsForManyKeys) {
    TypeParam on;
    expect_right(on, {1, 9, 1060, 1, 1, 16, 0.4f, false, false, true, true});
}

TYPED_TEST(CrossAttention, WithoutMarksItIsAttentionToTheLastBit) {
    TypeParam on;
    for (const bool causal : {false, true}) {
        const CrossAttentionShape s{2, 70, 70, 4, 2, 16, 0.3f, causal, true, false, false};
        const kernels::AttentionShape plain_shape{2, 70, 4, 2, 16, 0.3f, causal};
        const Result<TypeParam> run(on, s, DType::f32);
        Sample y(Shape{s.y_count()}, DType::f32), log_sum_exp(Shape{s.row_count()}, DType::f32),
            dqkv(Shape{s.q_count()}, DType::f32);
        const Workspace forward(kernels::attention_workspace_bytes(on.stream(), plain_shape, DType::f32));
        const Workspace backward(kernels::attention_gradient_workspace_bytes(on.stream(), plain_shape, DType::f32));
        kernels::attention(on.stream(), plain_shape, on(run.q), on(y), on(log_sum_exp), on(forward));
        kernels::attention_gradient(on.stream(), plain_shape, on(run.q), on(y), on(run.dy), on(log_sum_exp), on(dqkv),
                                    on(backward));
        on.finish();
        EXPECT_TRUE(run.y.same_bits(y));
        EXPECT_TRUE(run.dq.same_bits(dqkv));
    }
}

TYPED_TEST(CrossAttention, AQueryThatSeesNoKeyIsZeroAndGivesNoGradient) {
    TypeParam on;
    const CrossAttentionShape s{1, 3, 4, 1, 1, 8, 0.4f, false, false, true, false};
    const Sample q = random_sample(s.q_count(), DType::f32, 1), kv = random_sample(s.kv_count(), DType::f32, 2);
    Sample segments(Shape{3}, DType::i32), key_segments(Shape{4}, DType::i32);
    segments.set(1, 7);
    Sample y(Shape{24}, DType::f32), log_sum_exp(Shape{3}, DType::f32), dq(Shape{24}, DType::f32),
        dkv(Shape{64}, DType::f32);
    const Sample dy = random_sample(24, DType::f32, 3);
    const Workspace forward(kernels::cross_attention_workspace_bytes(on.stream(), s, DType::f32));
    const Workspace backward(kernels::cross_attention_gradient_workspace_bytes(on.stream(), s, DType::f32));
    const kernels::CrossAttentionInputs in{on(q), on(kv), on(segments), on(key_segments)};
    kernels::cross_attention(on.stream(), s, in, on(y), on(log_sum_exp), on(forward));
    kernels::cross_attention_gradient(on.stream(), s, in, on(y), on(dy), on(log_sum_exp), {on(dq), on(dkv)},
                                      on(backward));
    on.finish();
    for (std::int64_t i = 0; i < 24; ++i) {
        EXPECT_EQ(y[i] == 0, i / 8 == 1) << i;
        EXPECT_EQ(dq[i] == 0, i / 8 == 1) << i;
    }
    EXPECT_LT(log_sum_exp[1], -1e29);
    for (std::int64_t i = 0; i < dkv.count(); ++i)
        EXPECT_TRUE(std::isfinite(dkv[i])) << i;
}

TYPED_TEST(CrossAttention, SameBitsInTwoRuns) {
    TypeParam on;
    const CrossAttentionShape s{2, 70, 40, 4, 2, 24, 0.3f, false, false, true, true};
    const Result<TypeParam> one(on, s, DType::f32), two(on, s, DType::f32);
    for (const auto member :
         {&Result<TypeParam>::y, &Result<TypeParam>::dq, &Result<TypeParam>::dkv, &Result<TypeParam>::dbias})
        EXPECT_TRUE((one.*member).same_bits(two.*member));
}

TEST(CrossAttentionThreads, SameBitsForAnyNumberOfThreads) {
    const CrossAttentionShape s{3, 70, 40, 4, 2, 24, 0.3f, false, false, true, true};
    OnCpu first(1);
    const Result<OnCpu> one(first, s, DType::f32);
    for (const int threads : {2, 3, 16}) {
        OnCpu on(threads);
        const Result<OnCpu> several(on, s, DType::f32);
        for (const auto member : {&Result<OnCpu>::y, &Result<OnCpu>::dq, &Result<OnCpu>::dkv, &Result<OnCpu>::dbias})
            EXPECT_TRUE((one.*member).same_bits(several.*member)) << threads;
    }
}

TYPED_TEST(CrossAttention, WrongViewsAreRefused) {
    TypeParam on;
    const CrossAttentionShape s{1, 3, 4, 1, 1, 8, 0.4f, false, false, true, true};
    const Result<TypeParam> run(on, s, DType::f32);
    const Workspace memory(kernels::cross_attention_workspace_bytes(on.stream(), s, DType::f32));
    const auto refused = [&](const kernels::CrossAttentionInputs& in, const CrossAttentionShape& shape) {
        EXPECT_THROW(kernels::cross_attention(on.stream(), shape, in, on(run.y), on(run.log_sum_exp), on(memory)),
                     InternalError);
    };
    const ConstView q = on(run.q), kv = on(run.kv), segments = on(run.segments), keys = on(run.key_segments);
    refused({q, kv, segments, keys}, s); // no bias
    refused({q, q, segments, keys, on(run.bias)}, s);
    refused({q, kv, keys, keys, on(run.bias)}, s);
    CrossAttentionShape wrong = s;
    wrong.packed = true; // three queries beside four keys
    refused({q, kv, segments, keys, on(run.bias)}, wrong);
    wrong = s;
    wrong.keys = 0;
    refused({q, kv, segments, keys, on(run.bias)}, wrong);
    on.finish();
}

} // namespace cross_attention_test
