// SPDX-License-Identifier: Apache-2.0
// Twenty steps of each optimizer on a quadratic, through graph and executor, against PyTorch's formulas, or those of
// papers, in double.
#include "tests/core/planned_run.hpp"
#include "tests/core/trained_quadratic.hpp"
#include "tests/support/sample.hpp"
#include "tests/support/tolerance.hpp"

#include <cmath>
#include <gtest/gtest.h>

using namespace tessera;

namespace {

// torch.optim.{Adagrad, Adam, AdamW, RMSprop, SGD}, and Lion as its paper has it; one parameter.
struct Reference {
    std::vector<double> weight, first, second;

    bool is_matrix; // LAMB and LARS adapt its steps to its norm

    explicit Reference(const std::vector<double>& start, bool matrix = true)
        : weight(start), first(start.size()), second(start.size()), is_matrix(matrix) {}

    static double norm(const std::vector<double>& values) {
        double sum = 0;
        for (const double value : values)
            sum += value * value;
        return std::sqrt(sum);
    }

    void lamb(const Settings& s, double decay, double t, double rate, const std::vector<double>& gradient) {
        std::vector<double> way(weight.size());
        for (std::size_t i = 0; i < weight.size(); ++i) {
            first[i] = s.beta1 * first[i] + (1 - s.beta1) * gradient[i];
            second[i] = s.beta2 * second[i] + (1 - s.beta2) * gradient[i] * gradient[i];
            const double root = std::sqrt(second[i] / (1 - std::pow(s.beta2, t))) + s.epsilon;
            way[i] = first[i] / (1 - std::pow(s.beta1, t)) / root + decay * weight[i];
        }
        const double ratio = is_matrix && norm(weight) > 0 && norm(way) > 0 ? norm(weight) / norm(way) : 1;
        for (std::size_t i = 0; i < weight.size(); ++i)
            weight[i] -= rate * ratio * way[i];
    }

    void lars(const Settings& s, double decay, double rate, const std::vector<double>& gradient) {
        double local = 1;
        if (is_matrix && norm(weight) > 0 && norm(gradient) > 0)
            local = 1e-3 * norm(weight) / (norm(gradient) + decay * norm(weight));
        for (std::size_t i = 0; i < weight.size(); ++i) {
            first[i] = s.momentum * first[i] + local * (gradient[i] + decay * weight[i]);
            weight[i] -= rate * first[i];
        }
    }

    void step(const Settings& s, double decay, std::int64_t step, double rate, const std::vector<double>& gradient) {
        const double t = static_cast<double>(step) + 1;
        if (s.name == "lamb") return lamb(s, decay, t, rate, gradient);
        if (s.name == "lars") return lars(s, decay, rate, gradient);
        for (std::size_t i = 0; i < weight.size(); ++i) {
            double g = gradient[i];
            double& w = weight[i];
            if (s.name == "adamw" || s.name == "lion")
                w *= 1 - rate * decay;
            else
                g += decay * w;
            if (s.name == "sgd") {
                first[i] = step == 0 ? g : s.momentum * first[i] + g;
                w -= rate * (s.nesterov ? g + s.momentum * first[i] : s.momentum == 0 ? g : first[i]);
                continue;
            }
            if (s.name == "adagrad") {
                first[i] += g * g;
                w -= rate * g / (std::sqrt(first[i]) + s.epsilon);
                continue;
            }
            if (s.name == "rmsprop") {
                first[i] = s.alpha * first[i] + (1 - s.alpha) * g * g;
                second[i] = s.momentum * second[i] + g / (std::sqrt(first[i]) + s.epsilon);
                w -= rate * second[i];
                continue;
            }
            if (s.name == "lion") {
                const double c = s.beta1 * first[i] + (1 - s.beta1) * g;
                w -= rate * (c > 0 ? 1 : c < 0 ? -1 : 0);
                first[i] = s.beta2 * first[i] + (1 - s.beta2) * g;
                continue;
            }
            first[i] = s.beta1 * first[i] + (1 - s.beta1) * g;
            second[i] = s.beta2 * second[i] + (1 - s.beta2) * g * g;
            const double root = std::sqrt(second[i] / (1 - std::pow(s.beta2, t))) + s.epsilon;
            w -= rate / (1 - std::pow(s.beta1, t)) * first[i] / root;
        }
    }
};

std::vector<double> start_of(std::int64_t count, double middle) {
    std::vector<double> start;
    for (std::int64_t i = 0; i < count; ++i)
        start.push_back(static_cast<float>(middle + 0.25 * static_cast<double>(i % 5)));
    return start;
}

// How much the runs' gradients were clipped: the least factor seen.
double expect_follows_reference(const Settings& settings) {
    const Trained trained(settings);
    PlannedRun run(trained.graph);
    Reference w(start_of(15, -2)), b(start_of(5, 3), false);
    run.set(trained.w, std::vector<float>(w.weight.begin(), w.weight.end()));
    run.set(trained.b, std::vector<float>(b.weight.begin(), b.weight.end()));
    const Tolerance allowed = tolerance(DType::f32, Kind::update);
    const auto expect_near = [&](const std::vector<float>& found, const std::vector<double>& expected, int step) {
        for (std::size_t i = 0; i < found.size(); ++i)
            EXPECT_NEAR(found[i], expected[i], allowed.relative * std::abs(expected[i]) + allowed.absolute)
                << "step " << step << " element " << i;
    };
    double least_factor = 1;
    for (int step = 0; step < 20; ++step) {
        const double rate = 0.05 / (1 + step % 3); // a rate that changes
        std::vector<double> dw = w.weight, db = b.weight;
        double squares = 0;
        for (double& g : dw) {
            g -= 1;
            squares += g * g;
        }
        for (double& g : db) {
            g = 2 * (g - 1);
            squares += g * g;
        }
        const double factor =
            settings.max_norm > 0 ? std::min(1.0, settings.max_norm / (std::sqrt(squares) + 1e-6)) : 1;
        least_factor = std::min(least_factor, factor);
        for (std::vector<double>* gradient : {&dw, &db})
            for (double& g : *gradient)
                g *= factor;
        w.step(settings, settings.decay, step, rate, dw);
        b.step(settings, 0, step, rate, db);

        run.step({.seed = 1, .step = step, .first_sample = 0, .learning_rate = rate});
        expect_near(run.get(trained.norm), {std::sqrt(squares)}, step);
        expect_near(run.get(trained.w), w.weight, step);
        expect_near(run.get(trained.b), b.weight, step);
    }
    return least_factor;
}

} // namespace

TEST(Optimizers, AdamFollowsPyTorch) {
    expect_follows_reference({.name = "adam"});
    expect_follows_reference({.name = "adam", .decay = 0.3, .beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-3});
}

TEST(Optimizers, AdamWFollowsPyTorch) {
    expect_follows_reference({.name = "adamw"});
    expect_follows_reference({.name = "adamw", .decay = 0.3, .beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-3});
}

TEST(Optimizers, SgdFollowsPyTorch) {
    expect_follows_reference({.name = "sgd"});
    expect_follows_reference({.name = "sgd", .decay = 0.3});
    expect_follows_reference({.name = "sgd", .decay = 0.3, .momentum = 0.9});
    expect_follows_reference({.name = "sgd", .decay = 0.3, .momentum = 0.9, .nesterov = true});
}

TEST(Optimizers, AdagradFollowsPyTorch) {
    expect_follows_reference({.name = "adagrad"});
    expect_follows_reference({.name = "adagrad", .decay = 0.3, .epsilon = 1e-3});
}

TEST(Optimizers, RmsPropFollowsPyTorch) {
    expect_follows_reference({.name = "rmsprop"});
    expect_follows_reference({.name = "rmsprop", .decay = 0.3, .epsilon = 1e-3, .momentum = 0.9, .alpha = 0.9});
}

TEST(Optimizers, LionFollowsItsPaper) {
    expect_follows_reference({.name = "lion"});
    expect_follows_reference({.name = "lion", .decay = 0.3, .beta1 = 0.8, .beta2 = 0.95});
}

TEST(Optimizers, LambFollowsItsPaper) {
    expect_follows_reference({.name = "lamb"});
    expect_follows_reference({.name = "lamb", .decay = 0.3, .beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-3});
}

TEST(Optimizers, LarsFollowsItsPaper) {
    expect_follows_reference({.name = "lars", .momentum = 0.9});
    expect_follows_reference({.name = "lars", .decay = 0.3, .momentum = 0.5});
}

namespace {

using Matrix = std::vector<std::vector<double>>;

Matrix product(const Matrix& a, const Matrix& b) {
    Matrix c(a.size(), std::vector<double>(b[0].size()));
    for (std::size_t i = 0; i < a.size(); ++i)
        for (std::size_t j = 0; j < b[0].size(); ++j)
            for (std::size_t k = 0; k < b.size(); ++k)
                c[i][j] += a[i][k] * b[k][j];
    return c;
}

Matrix transposed(const Matrix& a) {
    Matrix b(a[0].size(), std::vector<double>(a.size()));
    for (std::size_t i = 0; i < a.size(); ++i)
        for (std::size_t j = 0; j < a[0].size(); ++j)
            b[j][i] = a[i][j];
    return b;
}

// Five Newton-Schulz steps of x / |x|, as Jordan's code has them.
Matrix orthogonal(Matrix x) {
    double squares = 0;
    for (const auto& row : x)
        for (const double value : row)
            squares += value * value;
    for (auto& row : x)
        for (double& value : row)
            value /= std::sqrt(squares) + 1e-7;
    for (int step = 0; step < 5; ++step) {
        const Matrix a = product(x, transposed(x)), cubic = product(a, x), quintic = product(a, cubic);
        for (std::size_t i = 0; i < x.size(); ++i)
            for (std::size_t j = 0; j < x[0].size(); ++j)
                x[i][j] = 3.4445 * x[i][j] - 4.775 * cubic[i][j] + 2.0315 * quintic[i][j];
    }
    return x;
}

} // namespace

// Some steps of a (3, 5) matrix whose gradient is w - 1.
TEST(Optimizers, MuonFollowsItsPaper) {
    const Trained trained({.name = "muon", .decay = 0.3, .momentum = 0.9});
    PlannedRun run(trained.graph);
    Sample start(Shape{3, 5}, DType::f32, 7);
    std::vector<double> w = start.values(), velocity(15);
    run.set(trained.w, std::vector<float>(w.begin(), w.end()));
    run.set(trained.b, std::vector<float>(5, 3.0f));
    const Tolerance allowed = tolerance(DType::f32, Kind::update);
    for (int step = 0; step < 5; ++step) {
        Matrix way(3, std::vector<double>(5));
        for (std::size_t i = 0; i < 15; ++i) {
            velocity[i] = 0.9 * velocity[i] + w[i] - 1;
            way[i / 5][i % 5] = w[i] - 1 + 0.9 * velocity[i];
        }
        way = orthogonal(way);
        for (std::size_t i = 0; i < 15; ++i)
            w[i] -= 0.05 * (0.2 * std::sqrt(5.0) * way[i / 5][i % 5] + 0.3 * w[i]);
        run.step({.seed = 1, .step = step, .first_sample = 0, .learning_rate = 0.05});
        const std::vector<float> found = run.get(trained.w);
        for (std::size_t i = 0; i < 15; ++i)
            EXPECT_NEAR(found[i], w[i], 10 * (allowed.relative * std::abs(w[i]) + allowed.absolute)) << step;
    }
}

namespace {

// Shazeer and Stern 2018, algorithm 4 with the size of algorithm 3; a vector's squares are not factored.
struct AdafactorReference {
    std::size_t rows, columns;
    std::vector<double> weight, of_rows = std::vector<double>(rows), of_columns = std::vector<double>(columns),
                                of_all = std::vector<double>(rows * columns);

    void step(int step, double rate, double decay, const std::vector<double>& gradient) {
        const double beta = 1 - std::pow(step + 1, -0.8);
        std::vector<double> sums(rows), over_rows(columns), way(gradient.size());
        for (std::size_t i = 0; i < gradient.size(); ++i) {
            const double square = gradient[i] * gradient[i] + 1e-30;
            sums[i / columns] += square / static_cast<double>(columns);
            over_rows[i % columns] += square / static_cast<double>(rows);
            of_all[i] = beta * of_all[i] + (1 - beta) * square;
        }
        double mean = 0, squares = 0, size = 0;
        for (std::size_t r = 0; r < rows; ++r)
            mean += (of_rows[r] = beta * of_rows[r] + (1 - beta) * sums[r]) / static_cast<double>(rows);
        for (std::size_t c = 0; c < columns; ++c)
            of_columns[c] = beta * of_columns[c] + (1 - beta) * over_rows[c];
        for (std::size_t i = 0; i < way.size(); ++i) {
            const double square = columns > 1 ? of_rows[i / columns] * of_columns[i % columns] / mean : of_all[i];
            way[i] = gradient[i] / std::sqrt(square);
            squares += way[i] * way[i] / static_cast<double>(way.size());
            size += weight[i] * weight[i] / static_cast<double>(way.size());
        }
        const double along = rate * std::max(1e-3, std::sqrt(size)) / std::max(1.0, std::sqrt(squares));
        for (std::size_t i = 0; i < way.size(); ++i)
            weight[i] -= along * way[i] + rate * decay * weight[i];
    }
};

} // namespace

TEST(Optimizers, AdafactorFollowsItsPaper) {
    const Trained trained({.name = "adafactor", .decay = 0.3});
    PlannedRun run(trained.graph);
    AdafactorReference w{3, 5, Sample(Shape{3, 5}, DType::f32, 7).values()}, b{5, 1, start_of(5, 3)};
    run.set(trained.w, std::vector<float>(w.weight.begin(), w.weight.end()));
    run.set(trained.b, std::vector<float>(b.weight.begin(), b.weight.end()));
    const Tolerance allowed = tolerance(DType::f32, Kind::update);
    for (int step = 0; step < 20; ++step) {
        std::vector<double> dw = w.weight, db = b.weight;
        for (double& g : dw)
            g -= 1;
        for (double& g : db)
            g = 2 * (g - 1);
        w.step(step, 0.05, 0.3, dw);
        b.step(step, 0.05, 0, db);
        run.step({.seed = 1, .step = step, .first_sample = 0, .learning_rate = 0.05});
        const std::vector<float> of_w = run.get(trained.w), of_b = run.get(trained.b);
        for (std::size_t i = 0; i < of_w.size(); ++i)
            EXPECT_NEAR(of_w[i], w.weight[i], 10 * (allowed.relative * std::abs(w.weight[i]) + allowed.absolute))
                << step;
        for (std::size_t i = 0; i < of_b.size(); ++i)
            EXPECT_NEAR(of_b[i], b.weight[i], 10 * (allowed.relative * std::abs(b.weight[i]) + allowed.absolute))
                << step;
    }
}

TEST(Optimizers, ClipTheGlobalNorm) {
    for (const char* name : {"adagrad", "adam", "adamw", "lamb", "lars", "lion", "rmsprop", "sgd"}) {
        EXPECT_LT(expect_follows_reference({.name = name, .decay = 0.1, .alpha = 0.9, .max_norm = 2}), 0.5) << name;
        EXPECT_EQ(expect_follows_reference({.name = name, .decay = 0.1, .alpha = 0.9, .max_norm = 1e3}), 1) << name;
    }
}
