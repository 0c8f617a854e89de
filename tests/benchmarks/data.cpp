// SPDX-License-Identifier: Apache-2.0
// Speed of the data: drawing the order, loading micro-batches from memory, training and using a tokenizer.
#include "core/data/loader.hpp"
#include "core/data/tokenizer.hpp"

#include <array>
#include <benchmark/benchmark.h>
#include <cmath>
#include <random>

using namespace tessera;

namespace {

void order(benchmark::State& state, const char* kind) {
    const SampleOrder samples({kind, 1, state.range(0), 64});
    std::int64_t index = 0;
    for (auto _ : state)
        benchmark::DoNotOptimize(samples.sample(index++));
}

std::unique_ptr<Dataset> ten_million_tokens(std::int64_t length) {
    DatasetOptions options;
    options.reader = "synthetic";
    options.synthetic_tokens = 10'000'000;
    options.sequence_length = length;
    return open_dataset(options);
}

// items: tokens that one thread draws and reads
void read(benchmark::State& state) {
    const std::int64_t length = state.range(0);
    const auto dataset = ten_million_tokens(length);
    const SampleOrder samples({"shuffle", 1, dataset->samples(Split::train), length});
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(length));
    std::vector<std::int32_t> targets = tokens;
    const std::array views = {View(tokens.data(), Shape{length}, DType::i32),
                              View(targets.data(), Shape{length}, DType::i32)};
    std::int64_t index = 0;
    for (auto _ : state)
        dataset->read(Split::train, samples.sample(index++), views);
    state.SetItemsProcessed(state.iterations() * length);
}

// items: tokens through next(), read by the loader's thread
void loader(benchmark::State& state) {
    const std::int64_t rows = state.range(0);
    const std::int64_t length = state.range(1);
    const auto dataset = ten_million_tokens(length);
    const SampleOrder samples({"shuffle", 1, dataset->samples(Split::train), length});
    LoaderOptions share;
    share.micro_batch_size = rows;
    share.end_step = std::int64_t{1} << 40;
    Loader loader(*dataset, samples, share);
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(rows * length));
    std::vector<std::int32_t> targets = tokens;
    const std::array views = {View(tokens.data(), Shape{rows, length}, DType::i32),
                              View(targets.data(), Shape{rows, length}, DType::i32)};
    Stream stream = CpuStream();
    for (auto _ : state)
        loader.next(stream, views);
    state.SetItemsProcessed(state.iterations() * rows * length);
}

// About 4 MB of 60,000 different words, the n-th with a frequency of 1 / n, as in a natural language.
std::string zipf_text() {
    std::mt19937_64 random(1); // NOLINT: the same text each time
    std::vector<std::string> words(60000);
    for (std::string& word : words)
        for (std::uint64_t letters = 2 + random() % 9; letters > 0; --letters)
            word.push_back("eeeettaaooiinnsshrdlucmfwypvbgkq"[random() % 32]);
    std::string text;
    while (text.size() < 4'000'000) {
        const double uniform = static_cast<double>(random() >> 11) * 0x1p-53;
        text += words[static_cast<std::size_t>(std::pow(60000.0, uniform)) - 1];
        text += random() % 12 == 0 ? ".\n" : " ";
    }
    return text;
}

void train(benchmark::State& state) {
    const std::string text = zipf_text();
    for (auto _ : state)
        benchmark::DoNotOptimize(train_tokenizer({"bpe", 256 + state.range(0)}, text));
}

void encode(benchmark::State& state, const TokenizerOptions& options) {
    const std::string text = zipf_text();
    const auto tokenizer = train_tokenizer(options, text);
    for (auto _ : state)
        benchmark::DoNotOptimize(tokenizer->encode(text));
    state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(text.size()));
}

} // namespace

BENCHMARK_CAPTURE(order, shuffle, "shuffle")->Arg(1'000'000)->Arg(10'000'000'000);
BENCHMARK_CAPTURE(order, random, "random")->Arg(1'000'000);
BENCHMARK(read)->Arg(64)->Arg(1024);
BENCHMARK(loader)->Args({12, 64})->Args({64, 256})->Args({8, 1024})->UseRealTime();
BENCHMARK(train)->Arg(512)->Arg(4096)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode, character, TokenizerOptions{"character"})->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode, bpe, TokenizerOptions{"bpe", 4096})->Unit(benchmark::kMillisecond);

BENCHMARK_MAIN();
