// SPDX-License-Identifier: Apache-2.0
// The loader against direct reads: any split over ranks, any start, failures, and stopping early.
#include "core/data/loader.hpp"
#include "tests/core/data_files.hpp"

#include <chrono>
#include <numeric>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

using namespace tessera;

namespace {

// A sample is its own number, thrice: once as a scalar and once as (2).
class NumberedSamples final : public Dataset {
public:
    explicit NumberedSamples(std::int64_t samples) : samples_(samples) {}

    const SampleForm& form() const override { return form_; }
    std::int64_t samples(Split split) const override { return split == Split::train ? samples_ : 0; }
    void expect(Split, std::int64_t sample) const override {
        if (expects_all) expected.push_back(sample);
    }
    void read(Split, std::int64_t sample, std::span<const View> views) const override {
        if (expects_all) said_before(sample);
        if (refused >= 0 && sample >= refused) throw ConfigError("sample " + std::to_string(sample) + " is damaged");
        std::this_thread::sleep_for(pause);
        *views[0].as<float>() = static_cast<float>(sample);
        views[1].as<std::int32_t>()[0] = static_cast<std::int32_t>(sample);
        views[1].as<std::int32_t>()[1] = static_cast<std::int32_t>(-sample);
    }
    const Tokenizer* tokenizer() const override { return nullptr; }
    std::string fingerprint() const override { return ""; }

    std::int64_t refused = -1;
    std::chrono::microseconds pause{0};
    bool expects_all = false;                   // with one thread that reads
    mutable std::vector<std::int64_t> expected; // where they are
    mutable std::size_t reads = 0;

private:
    void said_before(std::int64_t sample) const {
        ++reads;
        EXPECT_TRUE(std::ranges::find(expected, sample) != expected.end() && expected.size() <= reads + 2) << sample;
    }

    std::int64_t samples_;
    SampleForm form_{{{"number", Shape{}, DType::f32}, {"pair", Shape{2}, DType::i32}}};
};

// Takes one micro-batch and gives its samples' numbers.
std::vector<std::int64_t> take(Loader& loader, std::int64_t rows) {
    std::vector<float> numbers(static_cast<std::size_t>(rows));
    std::vector<std::int32_t> pairs(static_cast<std::size_t>(rows) * 2);
    const std::array<View, 2> views = {View(numbers.data(), Shape{rows}, DType::f32),
                                       View(pairs.data(), Shape{rows, 2}, DType::i32)};
    Stream stream = CpuStream();
    loader.next(stream, views);
    std::vector<std::int64_t> samples;
    for (std::size_t row = 0; row < numbers.size(); ++row) {
        EXPECT_EQ(numbers[row], static_cast<float>(pairs[row * 2]));
        EXPECT_EQ(pairs[row * 2 + 1], -pairs[row * 2]);
        samples.push_back(pairs[row * 2]);
    }
    return samples;
}

LoaderOptions one_rank(std::int64_t rows, std::int64_t micro_batches, std::int64_t first_step, std::int64_t end_step) {
    LoaderOptions options;
    options.micro_batch_size = rows;
    options.micro_batches = options.micro_batches_per_step = micro_batches;
    options.first_step = first_step;
    options.end_step = end_step;
    return options;
}

} // namespace

// Whatever shares the ranks have and wherever they begin, together they read the one sequence of the order.
RC_GTEST_PROP(Loader, TheSequenceDoesNotDependOnRanksOrTheStart, ()) {
    const auto rows = *rc::gen::inRange<std::int64_t>(1, 6);
    const auto shares =
        *rc::gen::nonEmpty(rc::gen::container<std::vector<std::int64_t>>(rc::gen::inRange<std::int64_t>(0, 4)));
    const auto first_step = *rc::gen::inRange<std::int64_t>(0, 4);
    const auto end_step = first_step + *rc::gen::inRange<std::int64_t>(0, 4);
    const NumberedSamples dataset(37);
    const SampleOrder order({"shuffle", 9, 37, 1});
    const std::int64_t per_step = std::accumulate(shares.begin(), shares.end(), std::int64_t{0});

    std::vector<std::unique_ptr<Loader>> ranks;
    std::int64_t first = 0;
    for (const std::int64_t share : shares) {
        LoaderOptions options = one_rank(rows, per_step, first_step, end_step);
        options.first_micro_batch = first;
        options.micro_batches = share;
        options.prefetch = *rc::gen::inRange(1, 6);
        options.threads = *rc::gen::inRange(1, 5);
        ranks.push_back(std::make_unique<Loader>(dataset, order, options));
        first += share;
    }
    std::int64_t index = first_step * per_step * rows;
    for (std::int64_t step = first_step; step < end_step; ++step)
        for (std::size_t rank = 0; rank < ranks.size(); ++rank)
            for (std::int64_t m = 0; m < shares[rank]; ++m)
                for (const std::int64_t sample : take(*ranks[rank], rows))
                    RC_ASSERT(sample == order.sample(index++));
    RC_ASSERT(index == end_step * per_step * rows);
}

TEST(Loader, ResumingAtAStepContinuesTheSequence) {
    const NumberedSamples dataset(50);
    const SampleOrder order({"shuffle", 1, 50, 1});
    std::vector<std::vector<std::int64_t>> whole;
    std::vector<std::vector<std::int64_t>> parts;
    Loader loader(dataset, order, one_rank(4, 3, 0, 10));
    for (int i = 0; i < 30; ++i)
        whole.push_back(take(loader, 4));
    for (const auto& [begin, end] : {std::pair{0, 7}, std::pair{7, 10}}) { // 7 * 12 samples: inside the second epoch
        Loader part(dataset, order, one_rank(4, 3, begin, end));
        for (int i = begin * 3; i < end * 3; ++i)
            parts.push_back(take(part, 4));
    }
    EXPECT_EQ(whole, parts);
}

TEST(Loader, WindowsOfTextEqualDirectReads) {
    DatasetOptions options;
    options.reader = "synthetic";
    options.synthetic_tokens = 5000;
    options.sequence_length = 16;
    const auto dataset = open_dataset(options);
    const SampleOrder order({"shuffle", 1, dataset->samples(Split::train), 16});
    Loader loader(*dataset, order, one_rank(3, 2, 0, 20));
    std::array<std::vector<std::int32_t>, 2> batch = {std::vector<std::int32_t>(48), std::vector<std::int32_t>(48)};
    std::array<std::vector<std::int32_t>, 2> direct = batch;
    Stream stream = CpuStream();
    std::int64_t index = 0;
    for (int micro_batch = 0; micro_batch < 40; ++micro_batch) {
        loader.next(stream, std::array{View(batch[0].data(), Shape{3, 16}, DType::i32),
                                       View(batch[1].data(), Shape{3, 16}, DType::i32)});
        for (int row = 0; row < 3; ++row)
            dataset->read(Split::train, order.sample(index++),
                          std::array{View(direct[0].data() + row * 16, Shape{16}, DType::i32),
                                     View(direct[1].data() + row * 16, Shape{16}, DType::i32)});
        ASSERT_EQ(batch, direct);
    }
}

TEST(Loader, AFailureOfAThreadComesOutWhereItBelongs) {
    NumberedSamples dataset(100);
    dataset.refused = 9; // and all behind it: in the third micro-batch
    const SampleOrder order({"sequential", 1, 100, 1});
    for (const int threads : {1, 2, 3, 8})
        for (int repeat = 0; repeat < 20; ++repeat) {
            LoaderOptions options = one_rank(4, 1, 0, 10);
            options.threads = threads;
            Loader loader(dataset, order, options);
            EXPECT_EQ(take(loader, 4), (std::vector<std::int64_t>{0, 1, 2, 3}));
            EXPECT_EQ(take(loader, 4), (std::vector<std::int64_t>{4, 5, 6, 7}));
            expect_refusal([&] { take(loader, 4); }, "sample 9 is damaged");
            expect_refusal([&] { take(loader, 4); }, "sample 9 is damaged"); // and stays
        }
}

// Samples that take their time, one micro-batch ahead: two threads read its halves at once.
TEST(Loader, ThreadsShareAMicroBatch) {
    NumberedSamples dataset(1000);
    dataset.pause = std::chrono::milliseconds(4);
    const SampleOrder order({"sequential", 1, 1000, 1});
    LoaderOptions options = one_rank(32, 1, 0, 1);
    options.prefetch = 1;
    options.threads = 8;
    Loader loader(dataset, order, options);
    EXPECT_EQ(take(loader, 32).back(), 31);
    EXPECT_LT(loader.seconds_waited(), 0.1); // one thread takes 0.128 s and more
}

// What is read is said two rows before: the time in which memory brings it.
TEST(Loader, SaysWhatItIsGoingToRead) {
    NumberedSamples dataset(50);
    dataset.expects_all = true;
    const SampleOrder order({"shuffle", 3, 50, 1});
    for (const std::int64_t rows : {1, 2, 7}) {
        dataset.expected.clear();
        dataset.reads = 0;
        Loader loader(dataset, order, one_rank(rows, 1, 0, 3));
        std::vector<std::int64_t> taken;
        for (int i = 0; i < 3; ++i)
            for (const std::int64_t sample : take(loader, rows))
                taken.push_back(sample);
        EXPECT_EQ(dataset.expected, taken) << rows;
    }
}

TEST(Loader, StoppingEarlyDoesNotWaitForTheRest) {
    NumberedSamples dataset(1000);
    dataset.pause = std::chrono::milliseconds(2);
    const SampleOrder order({"sequential", 1, 1000, 1});
    const auto start = std::chrono::steady_clock::now();
    for (const int threads : {1, 3}) { // in the middle of a micro-batch
        LoaderOptions options = one_rank(1000, 1, 0, 1000);
        options.threads = threads;
        const Loader never_used(dataset, order, options);
    }
    {
        LoaderOptions options = one_rank(1, 1, 0, 1000);
        options.prefetch = 4;
        Loader full(dataset, order, options); // its ring is full, the thread waits
        take(full, 1);
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
    }
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(1500)); // all would take 2 s and more
}

TEST(Loader, CountsTheTimeItWaited) {
    NumberedSamples slow(100);
    slow.pause = std::chrono::milliseconds(5);
    const SampleOrder order({"sequential", 1, 100, 1});
    Loader loader(slow, order, one_rank(4, 1, 0, 3));
    for (int i = 0; i < 3; ++i)
        take(loader, 4);
    EXPECT_GT(loader.seconds_waited(), 0.03); // 12 reads of 5 ms, and nothing else to do meanwhile
    Loader ready(slow, order, one_rank(1, 1, 0, 2));
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    take(ready, 1);
    EXPECT_LT(ready.seconds_waited(), 0.005);
}

TEST(Loader, SaysWhatItAllocates) {
    const std::vector<Field> fields = {{"tokens", Shape{3}, DType::i32}, {"weight", Shape{}, DType::f32}};
    LoaderOptions options = one_rank(5, 1, 0, 1);
    EXPECT_EQ(Loader::buffer_bytes(fields, options), 1024 * (64 + 64)); // 60 and 20 bytes, each a cache line
    const std::vector<Field> images = {{"image", Shape{1024}, DType::f32}};
    for (const auto& [rows, slots] : {std::pair(4, 1024), {17, 240}, {512, 8}, {1024, 4}, {9000, 4}}) // of 4 KiB each
        EXPECT_EQ(Loader::buffer_bytes(images, one_rank(rows, 1, 0, 1)), slots * rows * 4096) << rows;
    options.prefetch = 3;
    options.micro_batch_size = 6;
    EXPECT_EQ(Loader::buffer_bytes(fields, options), 3 * (128 + 64)); // 72 and 24
}

TEST(Loader, RefusesWrongSharesViewsAndOneTooMany) {
    const NumberedSamples dataset(10);
    const SampleOrder order({"sequential", 1, 10, 1});
    LoaderOptions outside = one_rank(1, 2, 0, 1);
    outside.first_micro_batch = 1;
    EXPECT_THROW(Loader(dataset, order, outside), InternalError);
    EXPECT_THROW(Loader(dataset, order, one_rank(0, 1, 0, 1)), InternalError);
    EXPECT_THROW(Loader(dataset, order, one_rank(1, 1, 2, 1)), InternalError);
    Loader loader(dataset, order, one_rank(2, 1, 0, 1));
    Stream stream = CpuStream();
    EXPECT_THROW(loader.next(stream, {}), InternalError);
    EXPECT_THROW(take(loader, 3), InternalError); // a view of another shape
    take(loader, 2);
    EXPECT_THROW(take(loader, 2), InternalError); // there was one
}
