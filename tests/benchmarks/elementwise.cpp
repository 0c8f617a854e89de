// SPDX-License-Identifier: Apache-2.0
// Times of the CPU kernels other than products and attention, at the sizes of a character model (768 rows of 128,
// hidden 512, 65 classes) and of GPT-2, on one thread.
#include "kernels/elementwise.hpp"
#include "kernels/copy.hpp"
#include "kernels/cross_entropy.hpp"
#include "kernels/dropout.hpp"
#include "kernels/embedding.hpp"
#include "kernels/norm.hpp"
#include "kernels/reduce.hpp"
#include "kernels/update.hpp"
#include "tests/support/sample.hpp"

#include <benchmark/benchmark.h>
#include <cstring>

using namespace tessera;

namespace {

// Rows and columns are the arguments 0 and 1, bf16 where argument 2 is 1.
struct Setting {
    std::int64_t rows, columns;
    DType type;
    CpuStream stream{1};
    Sample x, dy, y, row, other_row, statistic, other_statistic, workspace;

    explicit Setting(const benchmark::State& state)
        : rows(state.range(0)), columns(state.range(1)), type(state.range(2) == 1 ? DType::bf16 : DType::f32),
          x(Shape{rows, columns}, type, 1), dy(x.view().shape, type, 2), y(x.view().shape, type),
          row(Shape{columns}, DType::f32, 3), other_row(Shape{columns}, DType::f32, 4),
          statistic(Shape{rows}, DType::f32), other_statistic(Shape{rows}, DType::f32),
          workspace(Shape{kernels::norm_gradient_workspace_bytes(stream, rows, columns)}, DType::f32) {}
};

template <class Work> void time(benchmark::State& state, const Work& work) {
    Setting setting(state);
    for (auto _ : state)
        work(setting);
    state.SetItemsProcessed(state.iterations() * setting.rows * setting.columns);
}

void layer_norm(benchmark::State& state) {
    time(state, [](Setting& s) {
        kernels::layer_norm(s.stream, s.x.view(), s.row.view(), s.other_row.view(), 1e-5f, s.y.view(),
                            s.statistic.view(), s.other_statistic.view());
    });
}
void layer_norm_gradient(benchmark::State& state) {
    time(state, [](Setting& s) {
        kernels::layer_norm_gradient(s.stream, s.x.view(), s.row.view(), s.statistic.view(), s.other_statistic.view(),
                                     s.dy.view(), s.y.view(), s.row.view(), s.other_row.view(), s.workspace.view());
    });
}
void add_layer_norm(benchmark::State& state) {
    time(state, [](Setting& s) {
        kernels::add_layer_norm(s.stream, s.x.view(), s.dy.view(), s.row.view(), s.other_row.view(), 1e-5f, s.dy.view(),
                                s.y.view(), s.statistic.view(), s.other_statistic.view());
    });
}
void add_layer_norm_gradient(benchmark::State& state) {
    time(state, [](Setting& s) {
        kernels::add_layer_norm_gradient(s.stream, s.x.view(), s.row.view(), s.statistic.view(),
                                         s.other_statistic.view(), s.dy.view(), s.y.view(), s.y.view(), s.row.view(),
                                         s.other_row.view(), s.workspace.view());
    });
}
void rms_norm(benchmark::State& state) {
    time(state, [](Setting& s) {
        kernels::rms_norm(s.stream, s.x.view(), s.row.view(), 1e-5f, s.y.view(), s.statistic.view());
    });
}
void rms_norm_gradient(benchmark::State& state) {
    time(state, [](Setting& s) {
        kernels::rms_norm_gradient(s.stream, s.x.view(), s.row.view(), s.statistic.view(), s.dy.view(), s.y.view(),
                                   s.other_row.view(), s.workspace.view());
    });
}
template <Activation kind> void activation(benchmark::State& state) {
    time(state, [](Setting& s) { kernels::activation(s.stream, kind, s.x.view(), s.y.view()); });
}
template <Activation kind> void activation_gradient(benchmark::State& state) {
    time(state, [](Setting& s) { kernels::activation_gradient(s.stream, kind, s.x.view(), s.dy.view(), s.y.view()); });
}
void add(benchmark::State& state) {
    time(state, [](Setting& s) { kernels::add(s.stream, s.x.view(), s.dy.view(), s.y.view()); });
}
void add_rows(benchmark::State& state) {
    time(state, [](Setting& s) { kernels::add_rows(s.stream, s.x.view(), s.row.view(), s.y.view()); });
}
void sum_rows(benchmark::State& state) {
    time(state, [](Setting& s) { kernels::sum_rows(s.stream, s.x.view(), s.row.view(), s.workspace.view()); });
}
void fill(benchmark::State& state) {
    time(state, [](Setting& s) { kernels::fill(s.stream, s.y.view(), 0); });
}
void dropout(benchmark::State& state) {
    const Sample place(Shape{kernels::draw_words}, DType::i32);
    kernels::write_draw(place.view(), 1, 3, 0);
    time(state, [&](Setting& s) { kernels::dropout(s.stream, {0.1f, 2, 1}, place.view(), s.x.view(), s.y.view()); });
}
void cast(benchmark::State& state) {
    const Setting s(state);
    const Sample y(s.x.view().shape, s.type == DType::f32 ? DType::bf16 : DType::f32);
    for (auto _ : state)
        kernels::cast(const_cast<CpuStream&>(s.stream), s.x.view(), y.view());
}

void cross_entropy(benchmark::State& state) {
    time(state, [targets = Sample(Shape{state.range(0)}, DType::i32, 1, 0, 65)](Setting& s) {
        kernels::cross_entropy(s.stream, s.columns, s.x.view(), targets.view(), s.statistic.view());
    });
}
void cross_entropy_with_gradient(benchmark::State& state) {
    time(state, [targets = Sample(Shape{state.range(0)}, DType::i32, 1, 0, 65)](Setting& s) {
        const Sample scale(Shape{}, DType::f32);
        kernels::cross_entropy_with_gradient(s.stream, s.columns, s.x.view(), targets.view(), scale.view(),
                                             s.statistic.view(), s.y.view());
    });
}
void embedding(benchmark::State& state) {
    const Sample tokens(Shape{state.range(0)}, DType::i32, 1, 0, 65);
    time(state, [&, table = Sample(Shape{65, state.range(1)}, DType::f32, 2)](Setting& s) {
        kernels::embedding(s.stream, tokens.view(), table.view(), s.y.view());
    });
}
void embedding_gradient(benchmark::State& state) {
    const Sample tokens(Shape{state.range(0)}, DType::i32, 1, 0, 65);
    time(state, [&, table = Sample(Shape{65, state.range(1)}, DType::f32, 2)](Setting& s) {
        kernels::embedding_gradient(s.stream, tokens.view(), s.dy.view(), table.view(), {});
    });
}

// Argument 0: the number of parameters.
struct Parameters {
    CpuStream stream{1};
    Sample weight, gradient, first, second, copy, factor, pace, rate, sums, total;

    explicit Parameters(std::int64_t count)
        : weight(Shape{count}, DType::f32, 1), gradient(Shape{count}, DType::f32, 2), first(Shape{count}, DType::f32),
          second(Shape{count}, DType::f32), copy(Shape{count}, DType::bf16), factor(Shape{}, DType::f32),
          pace(Shape{kernels::adam_pace_count}, DType::f32), rate(Shape{}, DType::f32),
          sums(Shape{(count + kernels::square_sum_block - 1) / kernels::square_sum_block}, DType::f32),
          total(Shape{}, DType::f32) {
        factor.set(0, 1);
        rate.set(0, 1e-3);
        kernels::write_adam_pace(pace.view(), {}, 1e-3f, 1);
        for (Sample* moment : {&first, &second}) // touched: the first iteration would pay for the pages
            std::memset(moment->view().memory(), 0, static_cast<std::size_t>(moment->view().bytes()));
    }
};

void adam(benchmark::State& state) {
    Parameters p(state.range(0));
    const View gradient = p.gradient.view(), weight = p.weight.view(), first = p.first.view();
    const View second = p.second.view(), copy = state.range(1) == 1 ? p.copy.view() : View{};
    for (auto _ : state)
        kernels::adam(p.stream, {}, p.pace.view(), p.factor.view(),
                      {{&gradient, 1}, {&weight, 1}, {&first, 1}, {&second, 1}, {&copy, 1}});
    state.SetItemsProcessed(state.iterations() * state.range(0));
}
void sgd(benchmark::State& state) {
    Parameters p(state.range(0));
    const View gradient = p.gradient.view(), weight = p.weight.view(), first = p.first.view();
    for (auto _ : state)
        kernels::sgd(p.stream, {.momentum = 0.9f}, p.rate.view(), p.factor.view(),
                     {{&gradient, 1}, {&weight, 1}, {&first, 1}, {}});
    state.SetItemsProcessed(state.iterations() * state.range(0));
}
void square_sums_and_sum(benchmark::State& state) {
    Parameters p(state.range(0));
    const View gradient = p.gradient.view(), sums = p.sums.view();
    for (auto _ : state) {
        kernels::square_sums(p.stream, {&gradient, 1}, {&sums, 1});
        kernels::sum(p.stream, p.sums.view(), p.total.view());
    }
    state.SetItemsProcessed(state.iterations() * state.range(0));
}
void fill_normal(benchmark::State& state) {
    Parameters p(state.range(0));
    for (auto _ : state)
        tessera::fill_normal(p.weight.view(), {1, 2}, 0, 0.02f, 0);
    state.SetItemsProcessed(state.iterations() * state.range(0));
}

void narrow(benchmark::internal::Benchmark* b) {
    b->Args({768, 128, 0})->Args({768, 128, 1})->Args({1024, 768, 0})->Unit(benchmark::kMicrosecond);
}
void wide(benchmark::internal::Benchmark* b) {
    b->Args({768, 512, 0})->Args({768, 512, 1})->Args({1024, 3072, 0})->Unit(benchmark::kMicrosecond);
}
void classes(benchmark::internal::Benchmark* b) {
    b->Args({768, 65, 0})->Args({768, 65, 1})->Args({64, 50257, 0})->Unit(benchmark::kMicrosecond);
}
void weights(benchmark::internal::Benchmark* b) {
    b->Args({800000, 0})->Args({800000, 1})->Args({20000000, 0})->Unit(benchmark::kMicrosecond);
}

} // namespace

BENCHMARK(layer_norm)->Apply(narrow);
BENCHMARK(layer_norm_gradient)->Apply(narrow);
BENCHMARK(add_layer_norm)->Apply(narrow);
BENCHMARK(add_layer_norm_gradient)->Apply(narrow);
BENCHMARK(rms_norm)->Apply(narrow);
BENCHMARK(rms_norm_gradient)->Apply(narrow);
BENCHMARK(add)->Apply(narrow);
BENCHMARK(add_rows)->Apply(narrow)->Apply(classes);
BENCHMARK(sum_rows)->Apply(narrow)->Apply(wide)->Apply(classes);
BENCHMARK(fill)->Apply(narrow);
BENCHMARK(cast)->Apply(narrow);
BENCHMARK(dropout)->Apply(narrow);
BENCHMARK(embedding)->Apply(narrow);
BENCHMARK(embedding_gradient)->Apply(narrow);
BENCHMARK(activation<Activation::gelu>)->Apply(wide);
BENCHMARK(activation<Activation::gelu_tanh>)->Apply(wide);
BENCHMARK(activation<Activation::relu>)->Apply(wide);
BENCHMARK(activation<Activation::silu>)->Apply(wide);
BENCHMARK(activation_gradient<Activation::gelu>)->Apply(wide);
BENCHMARK(activation_gradient<Activation::gelu_tanh>)->Apply(wide);
BENCHMARK(activation_gradient<Activation::relu>)->Apply(wide);
BENCHMARK(activation_gradient<Activation::silu>)->Apply(wide);
BENCHMARK(cross_entropy)->Apply(classes);
BENCHMARK(cross_entropy_with_gradient)->Apply(classes);
BENCHMARK(adam)->Apply(weights);
BENCHMARK(sgd)->Apply(weights);
BENCHMARK(square_sums_and_sum)->Apply(weights);
BENCHMARK(fill_normal)->Args({800000})->Unit(benchmark::kMicrosecond);
BENCHMARK_MAIN();
