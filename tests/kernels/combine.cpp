// SPDX-License-Identifier: Apache-2.0
// Pieces combined in the order of a tree: the bits of the plain walk, on both devices.
#include "kernels/combine.hpp"

#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <cmath>
#include <cstring>
#include <limits>

using namespace tessera;

namespace combine_test {

namespace {

// The order of a binary counter over `count` pieces: equal neighbours merge, the rest at the end.
std::vector<int> counter_order(int count) {
    std::vector<int> order;
    int waiting = 0;
    for (int i = 0; i < count; ++i) {
        int merges = 0;
        for (int number = i; number % 2 != 0; number /= 2)
            ++merges;
        waiting += 1 - merges;
        order.push_back(merges);
    }
    order.back() += waiting - 1;
    return order;
}

double apply(Reduction reduction, DType dtype, double a, double b) {
    if (reduction == Reduction::max) return std::max(a, b);
    if (reduction == Reduction::min) return std::min(a, b);
    if (dtype != DType::i32) return static_cast<float>(a) + static_cast<float>(b);
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(static_cast<std::int64_t>(a)) +
                                     static_cast<std::uint32_t>(static_cast<std::int64_t>(b)));
}

double plain_walk(const std::vector<Sample>& pieces, const std::vector<int>& order, Reduction reduction,
                  std::int64_t at) {
    std::vector<double> stack;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        stack.push_back(pieces[i][at]);
        for (int merge = 0; merge < order[i]; ++merge) {
            const double right = stack.back();
            stack.pop_back();
            stack.back() = apply(reduction, pieces[i].dtype(), stack.back(), right);
        }
    }
    return stack.at(0);
}

std::vector<Sample> random_pieces(int count, std::int64_t size, DType dtype) {
    std::vector<Sample> pieces;
    pieces.reserve(static_cast<std::size_t>(count));
    const double reach = dtype == DType::i32 ? 2e9 : 3; // sums of i32 wrap around
    for (int i = 0; i < count; ++i)
        pieces.emplace_back(Shape{size}, dtype, static_cast<unsigned>(i + 1), -reach, reach);
    return pieces;
}

View from(const View& view, std::int64_t element) {
    return {
        static_cast<std::byte*>(view.memory()) + element * bytes_of(view.dtype), {view.count() - element}, view.dtype};
}

// Combines all elements but the first `skipped`, which takes them off their alignment; into `target`, or in place into
// piece number `in_place`.
template <class Device> void check(int count, std::int64_t size, DType dtype, Reduction reduction, std::int64_t skipped,
                                   int in_place = -1, std::vector<int> order = {}) {
    SCOPED_TRACE(testing::Message() << count << " pieces of " << size << " " << name_of(dtype) << ", reduction "
                                    << static_cast<int>(reduction) << ", without " << skipped << ", into " << in_place);
    Device on;
    if (order.empty()) order = counter_order(count);
    const std::vector<Sample> pieces = random_pieces(count, size, dtype);
    const std::vector<Sample> inputs = random_pieces(count, size, dtype); // the same numbers, kept
    Sample other(Shape{size}, dtype), expected(Shape{size}, dtype);
    std::memset(other.view().memory(), 0xff, static_cast<std::size_t>(other.bytes()));
    const Sample& target = in_place < 0 ? other : pieces[static_cast<std::size_t>(in_place)];
    std::memcpy(expected.view().memory(), target.view().data, static_cast<std::size_t>(target.bytes()));
    for (std::int64_t i = skipped; i < size; ++i)
        expected.set(i, plain_walk(inputs, order, reduction, i));

    std::vector<const std::byte*> sources;
    for (const Sample& piece : pieces)
        sources.push_back(static_cast<const std::byte*>(from(on(piece), skipped).data));
    const Sample copy(Shape{size}, dtype);
    std::byte* const targets[] = {static_cast<std::byte*>(from(on(target), skipped).memory()),
                                  static_cast<std::byte*>(from(on(copy), skipped).memory())};
    kernels::combine(on.stream(), dtype, reduction, order, sources, size - skipped, targets);
    on.finish();
    EXPECT_TRUE(target.same_bits(expected));
    for (std::int64_t i = skipped; i < size; ++i)
        ASSERT_EQ(copy[i], expected[i]) << i;
}

constexpr Reduction reductions[] = {Reduction::sum, Reduction::max, Reduction::min};
constexpr DType types[] = {DType::f32, DType::bf16, DType::i32};

} // namespace

template <class Device> class Combine : public testing::Test {};
TYPED_TEST_SUITE(Combine, Devices, DeviceNames);

TYPED_TEST(Combine, EveryTypeAndReductionInTheOrderOfTheTree) {
    for (const DType type : types)
        for (const Reduction reduction : reductions)
            for (const std::int64_t size : {0, 1, 3, 4, 63, 64, 65, 515, 5001})
                for (const int count : {1, 2, 3, 8})
                    check<TypeParam>(count, size, type, reduction, 0);
}

TYPED_TEST(Combine, OffItsAlignment) {
    for (const DType type : types)
        for (const std::int64_t skipped : {1, 2, 3})
            check<TypeParam>(5, 1027, type, Reduction::sum, skipped);
}

TYPED_TEST(Combine, InPlaceOfAnyPiece) {
    for (const DType type : types)
        for (const int piece : {0, 2, 4})
            check<TypeParam>(5, 1027, type, Reduction::sum, 0, piece);
}

TYPED_TEST(Combine, ManyPieces) {
    for (const int count : {13, 64, 255, 256, 257, 300})
        check<TypeParam>(count, 133, DType::f32, Reduction::sum, 0);
}

TYPED_TEST(Combine, OtherTrees) {
    check<TypeParam>(5, 700, DType::f32, Reduction::sum, 0, -1, {0, 0, 0, 0, 4}); // from the right
    check<TypeParam>(5, 700, DType::f32, Reduction::sum, 0, -1, {0, 1, 1, 1, 1}); // from the left
    check<TypeParam>(6, 700, DType::bf16, Reduction::sum, 0, -1, {0, 1, 0, 0, 1, 3});
}

TYPED_TEST(Combine, ANanWins) {
    for (const Reduction reduction : reductions)
        for (int where = 0; where < 3; ++where) {
            TypeParam on;
            std::vector<Sample> pieces = random_pieces(3, 9, DType::f32);
            pieces[static_cast<std::size_t>(where)].set(4, std::numeric_limits<double>::quiet_NaN());
            const Sample target(Shape{9}, DType::f32);
            std::vector<const std::byte*> sources;
            for (const Sample& piece : pieces)
                sources.push_back(static_cast<const std::byte*>(on(piece).data));
            std::byte* const to = static_cast<std::byte*>(on(target).memory());
            kernels::combine(on.stream(), DType::f32, reduction, counter_order(3), sources, 9, {&to, 1});
            on.finish();
            for (std::int64_t i = 0; i < 9; ++i)
                EXPECT_EQ(std::isnan(target[i]), i == 4);
        }
}

TYPED_TEST(Combine, RefusesWhatIsNoOrder) {
    TypeParam on;
    const Sample a(Shape{8}, DType::f32);
    std::byte* const memory = static_cast<std::byte*>(on(a).memory());
    const std::vector<const std::byte*> sources = {memory, memory, memory};
    const auto with = [&](const std::vector<int>& order) {
        kernels::combine(on.stream(), DType::f32, Reduction::sum, order, sources, 8, {&memory, 1});
    };
    EXPECT_THROW(with({0, 1}), InternalError);
    EXPECT_THROW(with({0, 1, 0}), InternalError);
    EXPECT_THROW(with({1, 0, 1}), InternalError);
    EXPECT_THROW(with({0, 0, 3}), InternalError);
}

TEST(CombineOrder, LevelsOfTheStack) {
    const auto levels = [](std::size_t count, kernels::CombineLimits limits) {
        return kernels::stack_levels(counter_order(static_cast<int>(count)), count, limits);
    };
    constexpr kernels::CombineLimits any{5000, 64};
    EXPECT_EQ(levels(1, any), 1);
    EXPECT_EQ(levels(2, any), 2);
    EXPECT_EQ(levels(8, any), 4);
    EXPECT_EQ(levels(2047, any), 11);
    EXPECT_EQ(levels(2048, any), 12);
    EXPECT_THROW(levels(2049, {2048, 64}), InternalError);
    EXPECT_THROW(levels(64, {2048, 6}), InternalError);
}

TEST(CombineOnCpu, SameBitsForAnyThreads) {
    const std::vector<Sample> pieces = random_pieces(7, 100'003, DType::f32);
    expect_same_bits_for_any_threads([&](CpuStream& stream) {
        Sample target(Shape{100'003}, DType::f32);
        std::vector<const std::byte*> sources;
        for (const Sample& piece : pieces)
            sources.push_back(static_cast<const std::byte*>(piece.view().data));
        std::byte* const to = static_cast<std::byte*>(target.view().memory());
        kernels::combine(stream, DType::f32, Reduction::sum, counter_order(7), sources, 100'003, {&to, 1});
        return target;
    });
}

} // namespace combine_test
