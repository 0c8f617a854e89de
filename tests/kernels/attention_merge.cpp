// SPDX-License-Identifier: Apache-2.0
// Partial attention merged, against the formula in double.
#include "kernels/attention_merge.hpp"

#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <cmath>

using namespace tessera;

namespace attention_merge_test {

namespace {

using kernels::AttentionPart;

struct Merge {
    AttentionPart part;
    Sample y, part_log_sum_exp, sum, log_sum_exp;

    Merge(const AttentionPart& of, DType dtype, double spread)
        : part(of), y({of.batch, of.tokens, of.heads, of.head_dim}, dtype, 1),
          part_log_sum_exp({of.batch, of.heads, of.tokens}, DType::f32, 2, -spread, spread),
          sum({of.batch, of.all_tokens, of.heads, of.head_dim}, DType::f32, 3),
          log_sum_exp({of.batch, of.heads, of.all_tokens}, DType::f32, 4, -spread, spread) {}

    template <class Device> void run(Device& on) const {
        kernels::attention_merge(on.stream(), part, on(y), on(part_log_sum_exp), on(sum), on(log_sum_exp));
        on.finish();
    }

    // By plain loops: where tokens are no part, what was there stays.
    void expect_right(const Merge& before) const {
        std::vector<double> sums = before.sum.values(), logarithms = before.log_sum_exp.values();
        for (std::int64_t b = 0; b < part.batch; ++b)
            for (std::int64_t h = 0; h < part.heads; ++h)
                for (std::int64_t t = 0; t < part.tokens; ++t) {
                    const std::int64_t row = (b * part.heads + h) * part.all_tokens + part.first + t;
                    const double old = before.log_sum_exp[row];
                    const double added = part_log_sum_exp[(b * part.heads + h) * part.tokens + t];
                    const double most = std::max(old, added);
                    const double joined = most + std::log(std::exp(old - most) + std::exp(added - most));
                    logarithms[static_cast<std::size_t>(row)] = joined;
                    for (std::int64_t d = 0; d < part.head_dim; ++d) {
                        const std::int64_t at =
                            ((b * part.all_tokens + part.first + t) * part.heads + h) * part.head_dim + d;
                        const double value = y[((b * part.tokens + t) * part.heads + h) * part.head_dim + d];
                        sums[static_cast<std::size_t>(at)] =
                            std::exp(old - joined) * before.sum[at] + std::exp(added - joined) * value;
                    }
                }
        EXPECT_TRUE(close_to(log_sum_exp, logarithms, tolerance(DType::f32, Kind::function)));
        EXPECT_TRUE(close_to(sum, sums, tolerance(DType::f32, Kind::norm)));
    }
};

template <class Device> class AttentionMerge : public testing::Test {};
TYPED_TEST_SUITE(AttentionMerge, Devices, DeviceNames);

} // namespace

TYPED_TEST(AttentionMerge, IsTheFormula) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
        for (const AttentionPart& part :
             {AttentionPart{1, 1, 1, 1, 0, 1}, AttentionPart{2, 5, 3, 17, 5, 10}, AttentionPart{2, 33, 2, 64, 0, 66},
              AttentionPart{1, 4, 2, 130, 2, 7}, AttentionPart{0, 4, 2, 8, 0, 4}, AttentionPart{1, 0, 2, 8, 0, 4}})
            for (const double spread : {1.0, 12.0}) { // the one or the other may count for nothing
                TypeParam on;
                const Merge merge(part, dtype, spread), before(part, dtype, spread);
                merge.run(on);
                merge.expect_right(before);
            }
}

TYPED_TEST(AttentionMerge, NotANumberIsNotLost) {
    TypeParam on;
    Merge merge({1, 2, 1, 4, 0, 2}, DType::f32, 1);
    merge.y.set(1, std::nan(""));
    merge.part_log_sum_exp.set(1, std::nan(""));
    merge.run(on);
    EXPECT_TRUE(std::isnan(merge.sum[1]) && !std::isnan(merge.sum[0]));
    for (std::int64_t d = 4; d < 8; ++d)
        EXPECT_TRUE(std::isnan(merge.sum[d]));
    EXPECT_TRUE(std::isnan(merge.log_sum_exp[1]) && !std::isnan(merge.log_sum_exp[0]));
}

TYPED_TEST(AttentionMerge, WrongViewsAreRefused) {
    TypeParam on;
    const Merge merge({1, 2, 1, 4, 0, 4}, DType::f32, 1);
    const auto run = [&](const AttentionPart& part, const Sample& y, const Sample& sum) {
        kernels::attention_merge(on.stream(), part, on(y), on(merge.part_log_sum_exp), on(sum), on(merge.log_sum_exp));
    };
    AttentionPart behind = merge.part;
    behind.first = 3;
    EXPECT_THROW(run(behind, merge.y, merge.sum), InternalError);
    EXPECT_THROW(run(merge.part, merge.sum, merge.sum), InternalError);
    EXPECT_THROW(run(merge.part, merge.y, merge.y), InternalError);
}

TEST(AttentionMergeThreads, SameBitsForAnyNumberOfThreads) {
    expect_same_bits_for_any_threads([](CpuStream& stream) {
        const Merge merge({2, 40, 3, 20, 8, 60}, DType::bf16, 5);
        kernels::attention_merge(stream, merge.part, merge.y.view(), merge.part_log_sum_exp.view(), merge.sum.view(),
                                 merge.log_sum_exp.view());
        return merge.sum;
    });
}

} // namespace attention_merge_test
