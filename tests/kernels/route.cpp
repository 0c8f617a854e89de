// SPDX-License-Identifier: Apache-2.0
// Routing against a plain loop in double, its gradients against differences, and the ways there and back.
#include "kernels/route.hpp"

#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <limits>
#include <numeric>

using namespace tessera;

namespace route_test {

namespace {

constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};

std::string text_of(const Routing& r) {
    return fmt::format("{} x {} tokens, {} of {} experts, room {}", r.samples, r.tokens, r.choices, r.experts,
                       r.capacity);
}

// Room for all, for some and for one; more experts than warps of a block, and than lanes of a vector.
const std::vector<Routing> cases = {
    {1, 1, 1, 1, 1, 0.1f, 0.01f},  {2, 7, 4, 1, 2, 0.1f, 0.01f}, {3, 33, 5, 2, 17, 0.1f, 0},
    {2, 70, 8, 3, 11, 0, 0.01f},   {1, 12, 19, 19, 12, 0.5f, 1}, {2, 65, 40, 4, 1, 0.01f, 0.001f},
    {5, 16, 2, 2, 9, 0.1f, 0.01f},
};

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

struct Routed {
    std::vector<double> gates, load, losses{0, 0, 0};
    std::vector<std::int32_t> slots;
    double loss = 0;
};

// As kernels/route.hpp says it. `chosen`, where given, are the experts to take.
Routed plain_route(const Routing& r, const std::vector<double>& logits, const std::vector<std::int32_t>* chosen = {}) {
    Routed found;
    for (std::int64_t b = 0; b < r.samples; ++b) {
        std::vector<double> load(at(r.experts)), mass(at(r.experts));
        for (std::int64_t t = 0; t < r.tokens; ++t) {
            const double* row = logits.data() + (b * r.tokens + t) * r.experts;
            double sum = 0, of_chosen = 0;
            for (std::int64_t e = 0; e < r.experts; ++e)
                sum += std::exp(row[e]);
            for (std::int64_t e = 0; e < r.experts; ++e)
                mass[at(e)] += std::exp(row[e]) / sum;
            found.losses[1] += std::log(sum) * std::log(sum);
            std::vector<std::int32_t> order(at(r.experts));
            std::iota(order.begin(), order.end(), 0);
            std::ranges::stable_sort(order, [&](std::int32_t a, std::int32_t c) { return row[a] > row[c]; });
            order.resize(at(r.choices));
            if (chosen != nullptr)
                for (std::int64_t j = 0; j < r.choices; ++j) {
                    const std::int32_t slot = (*chosen)[at((b * r.tokens + t) * r.choices + j)];
                    order[at(j)] = slot < 0 ? -1 - slot : static_cast<std::int32_t>(slot / r.capacity);
                }
            for (const std::int32_t e : order)
                of_chosen += std::exp(row[e]);
            for (const std::int32_t e : order) {
                found.gates.push_back(std::exp(row[e]) / (r.choices == 1 ? sum : of_chosen));
                const auto place = static_cast<std::int64_t>(load[at(e)]++);
                found.slots.push_back(static_cast<std::int32_t>(place < r.capacity ? e * r.capacity + place : -1 - e));
                if (place >= r.capacity) ++found.losses[2];
            }
        }
        for (std::int64_t e = 0; e < r.experts; ++e)
            found.losses[0] +=
                load[at(e)] * mass[at(e)] * static_cast<double>(r.experts) / static_cast<double>(r.choices * r.tokens);
        found.load.insert(found.load.end(), load.begin(), load.end());
    }
    found.loss = static_cast<double>(r.balance) * found.losses[0] + static_cast<double>(r.z) * found.losses[1];
    return found;
}

// The results of the kernel.
struct RouteRun {
    RouteRun(const Routing& r)
        : gates({r.samples, r.tokens, r.choices}, DType::f32), slots({r.samples, r.tokens, r.choices}, DType::i32),
          load({r.samples, r.experts}, DType::f32), loss({}, DType::f32), losses({3}, DType::f32) {}
    template <class Device> void run(Device& on, const Routing& r, const Sample& logits) {
        const Sample workspace(Shape{kernels::route_workspace_bytes(r) / 4}, DType::f32, 9);
        kernels::route(on.stream(), r, on(logits), on(gates), on(slots), on(load), on(loss), on(losses), on(workspace));
        on.finish();
    }
    Sample gates, slots, load, loss, losses;
};

Sample logits_of(const Routing& r, DType type, unsigned seed = 1) {
    return {Shape{r.samples, r.tokens, r.experts}, type, seed, -3, 3};
}

std::vector<std::int32_t> integers(const Sample& sample) {
    const auto* data = sample.view().as<std::int32_t>();
    return {data, data + sample.count()};
}

} // namespace

template <class Device> class Route : public testing::Test {};
TYPED_TEST_SUITE(Route, Devices, DeviceNames);

TYPED_TEST(Route, IsThePlainLoop) {
    for (const DType type : types)
        for (const Routing& r : cases) {
            SCOPED_TRACE(fmt::format("{}, {}", text_of(r), name_of(type)));
            TypeParam on;
            const Sample logits = logits_of(r, type);
            const Routed expected = plain_route(r, logits.values());
            RouteRun found(r);
            found.run(on, r, logits);
            EXPECT_EQ(integers(found.slots), expected.slots);
            EXPECT_TRUE(close_to(found.gates, expected.gates, tolerance(DType::f32, Kind::norm)));
            EXPECT_TRUE(close_to(found.load, expected.load, {0, 0}));
            EXPECT_TRUE(close_to(found.losses, expected.losses, tolerance(DType::f32, Kind::norm)));
            EXPECT_TRUE(close_to(found.loss, {expected.loss}, tolerance(DType::f32, Kind::norm)));
        }
}

// Of equal logits the lower numbers come first; an even load has the balance loss of its tokens.
TYPED_TEST(Route, EqualLogitsGoToTheLowerNumbers) {
    TypeParam on;
    const Routing r{1, 6, 4, 2, 4, 1, 1};
    RouteRun found(r);
    found.run(on, r, Sample(Shape{1, 6, 4}, DType::f32));
    EXPECT_EQ(integers(found.slots), (std::vector<std::int32_t>{0, 4, 1, 5, 2, 6, 3, 7, -1, -2, -1, -2}));
    for (std::int64_t i = 0; i < found.gates.count(); ++i)
        EXPECT_EQ(found.gates[i], 0.5);
    EXPECT_NEAR(found.losses[0], 6, 1e-5); // the probabilities are even
    EXPECT_EQ(found.losses[2], 4);
}

// Gradients overflow in f16: what comes after must still be the number of an expert.
TYPED_TEST(Route, LogitsThatAreNoNumbersChooseSomeExpert) {
    TypeParam on;
    const Routing r{1, 4, 3, 2, 4, 1, 1};
    Sample logits(Shape{1, 4, 3}, DType::f32);
    for (std::int64_t i = 0; i < 6; ++i)
        logits.set(i, std::numeric_limits<double>::quiet_NaN());
    RouteRun found(r);
    found.run(on, r, logits);
    for (const std::int32_t slot : integers(found.slots))
        EXPECT_TRUE(slot >= 0 && slot < 12) << slot;
}

TYPED_TEST(Route, GradientIsDifferences) {
    for (const DType type : types)
        for (const bool with_loss : {true, false})
            for (const Routing& r : cases) {
                if (r.rows() * r.experts > 200 || (!with_loss && type != DType::f32)) continue;
                SCOPED_TRACE(fmt::format("{}, {}", text_of(r), name_of(type)));
                TypeParam on;
                const Sample logits = logits_of(r, type), dgates(Shape{r.rows(), r.choices}, DType::f32, 2);
                const Sample dloss(Shape{}, DType::f32, 3), dlogits(logits.view().shape, type);
                RouteRun forward(r);
                forward.run(on, r, logits);
                kernels::route_gradient(on.stream(), r, on(logits), on(forward.gates), on(forward.slots),
                                        on(forward.load), on(dgates), with_loss ? ConstView(on(dloss)) : ConstView(),
                                        on(dlogits));
                on.finish();
                const std::vector<std::int32_t> chosen = integers(forward.slots);
                const auto objective = [&](const std::vector<double>& x) {
                    const Routed routed = plain_route(r, x, &chosen);
                    double sum = with_loss ? routed.loss * dloss[0] : 0;
                    for (std::int64_t i = 0; i < dgates.count(); ++i)
                        sum += dgates[i] * routed.gates[at(i)];
                    return sum;
                };
                std::vector<double> expected;
                for (std::size_t i = 0; i < at(logits.count()); ++i)
                    expected.push_back(slope(logits.values(), i, objective));
                EXPECT_TRUE(close_to(dlogits, expected, tolerance(type, Kind::finite_difference)));
            }
}

namespace {

constexpr std::int64_t widths[] = {1, 17, 264};

// Calls visit(choice, row of y) for each choice that was not dropped.
void for_each_row(const Routing& r, const Sample& slots, const std::function<void(std::int64_t, std::int64_t)>& visit) {
    std::int64_t choice = 0;
    for (const std::int32_t slot : integers(slots)) {
        const std::int64_t sample = choice / r.choices / r.tokens;
        if (slot >= 0) visit(choice, (slot / r.capacity * r.samples + sample) * r.capacity + slot % r.capacity);
        ++choice;
    }
}

template <class Device> Sample slots_of(Device& on, const Routing& r) {
    RouteRun routed(r);
    routed.run(on, r, logits_of(r, DType::f32));
    return routed.slots;
}

Shape of_experts(const Routing& r, std::int64_t width) { return {r.experts, r.samples, r.capacity, width}; }
Shape of_tokens(const Routing& r, std::int64_t width) { return {r.samples, r.tokens, width}; }

void expect_bits(const Sample& found, const std::vector<double>& expected) {
    EXPECT_TRUE(close_to(found, expected, {0, 0}));
}

} // namespace

TYPED_TEST(Route, DispatchCopiesRowsToTheirSlots) {
    for (const DType type : types)
        for (const Routing& r : cases)
            for (const std::int64_t width : widths) {
                TypeParam on;
                const Sample x(of_tokens(r, width), type, 4), slots = slots_of(on, r);
                const Sample y(of_experts(r, width), type, 5); // what lies there is written over
                kernels::dispatch_tokens(on.stream(), r, on(x), on(slots), on(y));
                on.finish();
                std::vector<double> expected(at(y.count()));
                for_each_row(r, slots, [&](std::int64_t i, std::int64_t row) {
                    for (std::int64_t c = 0; c < width; ++c)
                        expected[at(row * width + c)] = x[i / r.choices * width + c];
                });
                expect_bits(y, expected);
            }
}

// Both ways back: the sum of a token's rows, weighted or not.
TYPED_TEST(Route, CombineAddsTheRowsOfATokenAndSoDoesTheGradientOfDispatch) {
    for (const DType type : types)
        for (const Routing& r : cases)
            for (const std::int64_t width : widths) {
                SCOPED_TRACE(fmt::format("{}, {} wide, {}", text_of(r), width, name_of(type)));
                TypeParam on;
                const Sample y(of_experts(r, width), type, 4), slots = slots_of(on, r);
                const Sample gates(Shape{r.rows(), r.choices}, DType::f32, 6);
                const Sample x(of_tokens(r, width), type, 5), dx(of_tokens(r, width), type, 5);
                kernels::combine_experts(on.stream(), r, on(y), on(gates), on(slots), on(x));
                kernels::dispatch_tokens_gradient(on.stream(), r, on(y), on(slots), on(dx));
                on.finish();
                std::vector<double> sums(at(x.count())), weighted(sums), magnitudes(sums);
                for_each_row(r, slots, [&](std::int64_t i, std::int64_t row) {
                    for (std::int64_t c = 0; c < width; ++c) {
                        const std::size_t place = at(i / r.choices * width + c);
                        sums[place] += y[row * width + c];
                        weighted[place] += y[row * width + c] * gates[i];
                        magnitudes[place] += 2 * std::abs(y[row * width + c]);
                    }
                });
                EXPECT_TRUE(close_to(x, weighted, tolerance(type, Kind::sum), magnitudes));
                EXPECT_TRUE(close_to(dx, sums, tolerance(type, Kind::sum), magnitudes));
            }
}

TYPED_TEST(Route, TheGradientOfCombineIsItsSlope) {
    for (const DType type : types)
        for (const Routing& r : cases)
            for (const std::int64_t width : widths) {
                SCOPED_TRACE(fmt::format("{}, {} wide, {}", text_of(r), width, name_of(type)));
                TypeParam on;
                const Sample y(of_experts(r, width), type, 4), dy(y.view().shape, type, 7), slots = slots_of(on, r);
                const Sample gates(Shape{r.rows(), r.choices}, DType::f32, 6),
                    dgates(gates.view().shape, DType::f32, 8);
                const Sample dx(of_tokens(r, width), type, 5);
                kernels::combine_experts_gradient(on.stream(), r, on(dx), on(y), on(gates), on(slots), on(dy),
                                                  on(dgates));
                on.finish();
                std::vector<double> of_y(at(y.count())), of_gates(at(gates.count())), magnitudes(of_gates);
                for_each_row(r, slots, [&](std::int64_t i, std::int64_t row) {
                    for (std::int64_t c = 0; c < width; ++c) {
                        const double slope = dx[i / r.choices * width + c];
                        of_y[at(row * width + c)] = gates[i] * slope;
                        of_gates[at(i)] += slope * y[row * width + c];
                        magnitudes[at(i)] += std::abs(slope * y[row * width + c]);
                    }
                });
                EXPECT_TRUE(close_to(dy, of_y, tolerance(type, Kind::rounding)));
                EXPECT_TRUE(close_to(dgates, of_gates, tolerance(DType::f32, Kind::sum), magnitudes));
            }
}

TEST(RouteOnCpu, HasTheSameBitsForAnyNumberOfThreads) {
    const Routing r{7, 65, 6, 2, 18, 0.1f, 0.01f};
    const Sample logits = logits_of(r, DType::f32), x(of_tokens(r, 24), DType::f32, 4);
    const auto run = [&](CpuStream& stream, int which) {
        RouteRun found(r);
        const Sample workspace(Shape{kernels::route_workspace_bytes(r) / 4}, DType::f32);
        kernels::route(stream, r, logits.view(), found.gates.view(), found.slots.view(), found.load.view(),
                       found.loss.view(), found.losses.view(), workspace.view());
        const Sample y(of_experts(r, 24), DType::f32), back(of_tokens(r, 24), DType::f32), dy(y);
        kernels::dispatch_tokens(stream, r, x.view(), found.slots.view(), y.view());
        kernels::combine_experts(stream, r, y.view(), found.gates.view(), found.slots.view(), back.view());
        const Sample dgates(found.gates), dlogits(logits);
        kernels::combine_experts_gradient(stream, r, back.view(), y.view(), found.gates.view(), found.slots.view(),
                                          dy.view(), dgates.view());
        kernels::route_gradient(stream, r, logits.view(), found.gates.view(), found.slots.view(), found.load.view(),
                                dgates.view(), found.loss.view(), dlogits.view());
        return which == 0 ? found.losses : which == 1 ? back : which == 2 ? dy : dlogits;
    };
    for (int which = 0; which < 4; ++which)
        expect_same_bits_for_any_threads([&](CpuStream& stream) { return run(stream, which); });
}

TYPED_TEST(Route, RefusesViewsOfOtherSizes) {
    TypeParam on;
    const Routing r{2, 7, 4, 1, 2};
    const Sample x(of_tokens(r, 8), DType::f32), slots(Shape{2, 7, 2}, DType::i32), y(of_experts(r, 8), DType::f32);
    EXPECT_THROW(kernels::dispatch_tokens(on.stream(), r, on(x), on(slots), on(y)), InternalError);
    const Routing too_many{1, 1, most_experts + 1, 1, 1};
    EXPECT_THROW(kernels::dispatch_tokens(on.stream(), too_many, on(x), on(slots), on(y)), InternalError);
}

} // namespace route_test
