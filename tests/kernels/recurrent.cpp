// SPDX-License-Identifier: Apache-2.0
// LSTM and GRU against plain double loops, their gradients against finite differences of these.
#include "kernels/recurrent.hpp"

#include "kernels/error.hpp"
#include "tests/support/device.hpp"
#include "tests/support/poisoned.hpp"

#include <cmath>

using namespace tessera;

namespace recurrent_test {

namespace {

using Doubles = std::vector<double>;

// Odd sizes, more than one panel of units, and more words than a block along k takes.
constexpr RecurrentSizes sizes[] = {{1, 1, 1, 1}, {3, 4, 2, 5}, {2, 3, 1, 33}, {13, 2, 2, 16}, {1, 2, 1, 530}};
constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

struct Inputs {
    RecurrentSizes n;
    bool lstm, given; // `given`: bias, h0 and c0
    Doubles x, w, bias, h0, c0;

    std::size_t gates() const { return lstm ? 4 : 3; }
};

struct Results {
    Doubles y, last_h, last_c;
};

// The formulas of the header.
Results plain(const Inputs& in) {
    const auto rows = static_cast<std::size_t>(in.n.rows), steps = static_cast<std::size_t>(in.n.steps),
               directions = static_cast<std::size_t>(in.n.directions), hidden = static_cast<std::size_t>(in.n.hidden);
    const std::size_t gates = in.gates();
    Results results{Doubles(rows * steps * directions * hidden), in.h0, in.c0};
    results.last_h.resize(rows * directions * hidden);
    results.last_c.resize(rows * directions * hidden);
    for (std::size_t b = 0; b < rows; ++b)
        for (std::size_t d = 0; d < directions; ++d) {
            double* h = results.last_h.data() + (b * directions + d) * hidden;
            double* c = results.last_c.data() + (b * directions + d) * hidden;
            for (std::size_t s = 0; s < steps; ++s) {
                const std::size_t at = (b * steps + (d == 0 ? s : steps - 1 - s)) * directions + d;
                const double* x = in.x.data() + at * gates * hidden;
                Doubles q(gates * hidden), next(hidden);
                for (std::size_t j = 0; j < gates * hidden; ++j) {
                    q[j] = in.given ? in.bias[d * gates * hidden + j] : 0;
                    for (std::size_t k = 0; k < hidden; ++k)
                        q[j] += in.w[(d * gates * hidden + j) * hidden + k] * h[k];
                }
                for (std::size_t u = 0; u < hidden; ++u) {
                    const auto z = [&](std::size_t g) { return x[g * hidden + u] + q[g * hidden + u]; };
                    if (in.lstm) {
                        c[u] = sigmoid(z(1)) * c[u] + sigmoid(z(0)) * std::tanh(z(2));
                        next[u] = sigmoid(z(3)) * std::tanh(c[u]);
                    } else {
                        const double n = std::tanh(x[2 * hidden + u] + sigmoid(z(0)) * q[2 * hidden + u]);
                        next[u] = (1 - sigmoid(z(1))) * n + sigmoid(z(1)) * h[u];
                    }
                }
                for (std::size_t u = 0; u < hidden; ++u)
                    h[u] = results.y[at * hidden + u] = next[u];
            }
        }
    return results;
}

// One case: inputs, and the kernels' results.
struct Case {
    RecurrentSizes n;
    bool lstm, given;
    std::int64_t gates;
    Sample x, w, bias, h0, c0, dy, y, kept, cells, last_h, last_c, dx, dq;

    Case(const RecurrentSizes& size, bool is_lstm, bool is_given, DType type)
        : n(size), lstm(is_lstm), given(is_given), gates(is_lstm ? 4 : 3),
          x(Shape{n.rows, n.steps, n.directions, gates, n.hidden}, type, 1),
          w(Shape{n.directions, gates, n.hidden, n.hidden}, type, 2, -1 / std::sqrt(static_cast<double>(n.hidden)),
            1 / std::sqrt(static_cast<double>(n.hidden))),
          bias(Shape{n.directions, gates, n.hidden}, DType::f32, 3, -1, 1),
          h0(Shape{n.rows, n.directions, n.hidden}, type, 4, -1, 1),
          c0(Shape{n.rows, n.directions, n.hidden}, DType::f32, 5, -1, 1),
          dy(Shape{n.rows, n.steps, n.directions, n.hidden}, type, 6), y(poisoned(dy.view().shape, type)),
          kept(poisoned(Shape{n.rows, n.steps, n.directions, 4, n.hidden}, type)),
          cells(poisoned(dy.view().shape, DType::f32)), last_h(poisoned(c0.view().shape, DType::f32)), last_c(last_h),
          dx(poisoned(x.view().shape, type)), dq(dx) {}

    template <class Device> void run(Device& on) {
        auto& stream = on.stream();
        const std::int64_t bytes = kernels::recurrent_workspace_bytes(stream, n, gates, x.dtype());
        const Sample workspace = poisoned(Shape{bytes / 4}, DType::f32);
        Sample wide_h0(h0.view().shape, DType::f32);
        for (std::int64_t i = 0; i < h0.count(); ++i)
            wide_h0.set(i, h0[i]);
        const auto if_given = [&](const Sample& sample) { return given ? on(sample) : View(); };
        if (lstm) {
            kernels::lstm(stream, n, on(x), on(w), if_given(bias),
                          {if_given(wide_h0), if_given(c0), if_given(last_h), if_given(last_c)}, on(y), on(kept),
                          on(cells), on(workspace));
            kernels::lstm_gradient(stream, n, on(w), on(kept), on(cells), if_given(c0), on(dy), on(dx), on(workspace));
        } else {
            kernels::gru(stream, n, on(x), on(w), if_given(bias), if_given(wide_h0), on(y), on(kept), if_given(last_h),
                         on(workspace));
            kernels::gru_gradient(stream, n, on(w), on(kept), on(y), if_given(wide_h0), on(dy), on(dx), on(dq),
                                  on(workspace));
        }
        on.finish();
    }

    Inputs inputs() const {
        Inputs in{n, lstm, given, x.values(), w.values(), {}, {}, {}};
        if (given) {
            in.bias = bias.values();
            in.h0 = h0.values();
            in.c0 = c0.values();
        }
        return in;
    }

    void expect_forward() const {
        const Results expected = plain(inputs());
        const auto close = [&](const Sample& found, const Doubles& values, DType type) {
            EXPECT_TRUE(close_to(found, values, tolerance(type, Kind::product), Doubles(values.size(), 2)));
        };
        close(y, expected.y, x.dtype());
        if (!given) return;
        close(last_h, expected.last_h, x.dtype());
        if (lstm) close(last_c, expected.last_c, x.dtype());
    }

    double loss(const Inputs& in) const {
        const Doubles found = plain(in).y;
        double sum = 0;
        for (std::size_t i = 0; i < found.size(); ++i)
            sum += dy[static_cast<std::int64_t>(i)] * found[i];
        return sum;
    }

    // Of some elements of x, and, as the product's part has the same gradient but for GRU's last gate, of the bias.
    void expect_gradients() const {
        Inputs in = inputs();
        const double distance = 1e-5;
        const auto slope = [&](double& number) {
            const double middle = number;
            number = middle + distance;
            const double above = loss(in);
            number = middle - distance;
            const double below = loss(in);
            number = middle;
            return (above - below) / (2 * distance);
        };
        std::mt19937 generator(7);
        std::uniform_int_distribution<std::int64_t> any(0, x.count() - 1);
        const Tolerance allowed = tolerance(x.dtype(), Kind::finite_difference);
        for (int repetition = n.hidden > 100 ? 9 : 0; repetition < 12; ++repetition) {
            const std::int64_t i = any(generator);
            const double expected = slope(in.x[static_cast<std::size_t>(i)]);
            EXPECT_NEAR(dx[i], expected, allowed.relative * 4 + allowed.absolute) << i;
        }
        if (!given) return;
        const Sample& of_bias = lstm ? dx : dq;
        const std::int64_t count = bias.count(), i = any(generator) % count;
        double sum = 0;
        for (std::int64_t at = 0; at < n.rows * n.steps; ++at)
            sum += of_bias[at * count + i];
        EXPECT_NEAR(sum, slope(in.bias[static_cast<std::size_t>(i)]),
                    (allowed.relative * 4 + allowed.absolute) * static_cast<double>(n.rows * n.steps));
    }
};

template <class Device> class Recurrent : public testing::Test {};
TYPED_TEST_SUITE(Recurrent, Devices, DeviceNames);

} // namespace

TYPED_TEST(Recurrent, IsThePlainLoopAndItsSlopes) {
    for (const RecurrentSizes& size : sizes)
        for (const bool lstm : {true, false})
            for (const bool given : {true, false})
                for (const DType type : types) {
                    if (size.hidden > 100 && (!given || type != DType::f32)) continue;
                    SCOPED_TRACE(testing::Message() << (lstm ? "lstm " : "gru ") << size.hidden << " units, given "
                                                    << given << " " << name_of(type));
                    Case one(size, lstm, given, type);
                    TypeParam on;
                    one.run(on);
                    one.expect_forward();
                    one.expect_gradients();
                }
}

TEST(Recurrent, GivesTheSameBitsForAnyNumberOfThreads) {
    for (const bool lstm : {true, false}) {
        Case one({5, 3, 2, 70}, lstm, true, DType::f32);
        OnCpu alone(1);
        one.run(alone);
        for (const int threads : {2, 3}) {
            Case other({5, 3, 2, 70}, lstm, true, DType::f32);
            OnCpu on(threads);
            other.run(on);
            EXPECT_TRUE(other.y.same_bits(one.y));
            EXPECT_TRUE(other.dx.same_bits(one.dx));
            EXPECT_TRUE(other.last_h.same_bits(one.last_h));
        }
    }
}

TEST(Recurrent, RefusesViewsThatDoNotFit) {
    Case one({2, 3, 1, 4}, true, false, DType::f32);
    one.n.hidden = 5;
    OnCpu on;
    EXPECT_THROW(one.run(on), InternalError);
}

} // namespace recurrent_test
