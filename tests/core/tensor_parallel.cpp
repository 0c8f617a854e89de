// SPDX-License-Identifier: Apache-2.0
// Training steps on tensor ranks as threads: every variant of the tiny GPT near one rank, all ranks with one loss, and
// nothing read that was not written.
#include "tests/core/training_record.hpp"
#include "tests/support/tolerance.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

using namespace tessera;

namespace {

using Record = TrainingRecord;

std::vector<Record> train(std::vector<std::string> words, int ranks, bool poisoned = false) {
    words.push_back(fmt::format("parallelism.tensor_parallel_degree={}", ranks));
    const bool grouped =
        std::ranges::any_of(words, [](const std::string& word) { return word.starts_with("model.n_kv_heads="); });
    words.emplace_back(grouped ? "model.n_heads=8" : "model.n_heads=4");
    if (grouped) words.emplace_back("model.n_kv_heads=4"); // each rank needs one
    return train_on(ranks, words, poisoned);
}

bool in_16_bits(const Variant& variant) {
    return std::ranges::any_of(variant.overrides, [](const std::string& word) {
        return word == "training.dtype=bf16" || word == "training.dtype=f16";
    });
}

std::vector<Variant> shared_out() { // 8-bit factors are refused
    std::vector<Variant> some = variants();
    std::erase_if(some, [](const Variant& variant) { return variant.name == "f8"; });
    return some;
}

// Without and with sequence parallelism; 12 positions are shared out evenly, 13 are not.
const std::vector<std::vector<std::string>> ways = {
    {}, {"parallelism.sequence_parallel=true"}, {"parallelism.sequence_parallel=true", "training.seq_len=13"}};

std::vector<std::string> joined(std::vector<std::string> words, const std::vector<std::string>& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

} // namespace

class TensorParallel : public testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(Variants, TensorParallel, testing::ValuesIn(shared_out()),
                         [](const auto& variant) { return variant.param.name; });

TEST_P(TensorParallel, TrainsAsOneRankDoes) {
    const double allowed = tolerance(in_16_bits(GetParam()) ? DType::bf16 : DType::f32, Kind::training).relative;
    for (const std::vector<std::string>& way : ways) {
        const std::vector<std::string> words = joined(GetParam().overrides, way);
        const Record one = train(words, 1)[0];
        for (const int ranks : {2, 4}) {
            SCOPED_TRACE(fmt::format("{} ranks, {}", ranks, fmt::join(way, " ")));
            const std::vector<Record> records = train(words, ranks);
            for (const Record& record : records) {
                EXPECT_EQ(record.losses, records[0].losses);
                EXPECT_EQ(record.norms, records[0].norms);
            }
            expect_near(records[0].losses, one.losses, allowed);
            expect_near(records[0].norms, one.norms, 10 * allowed);
        }
    }
}

TEST_P(TensorParallel, ReadsNothingThatWasNotWritten) {
    for (const std::vector<std::string>& way : ways) {
        const std::vector<std::string> words = joined(GetParam().overrides, way);
        EXPECT_TRUE(train(words, 2, true) == train(words, 2)) << fmt::format("{}", fmt::join(way, " "));
    }
}
