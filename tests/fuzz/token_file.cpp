// SPDX-License-Identifier: Apache-2.0
// A token file of llm.c, opened and read to its end.
#include "core/data/dataset.hpp"
#include "kernels/error.hpp"
#include "tests/fuzz/target.hpp"

#include <vector>

using namespace tessera;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string path = fuzz::write_file("fuzz.bin", fuzz::text_of(data, size));
    DatasetOptions options;
    options.reader = "tokens";
    options.files = {path};
    options.sequence_length = 4;
    try {
        const fuzz::AllocationLimit limit(size, 64 << 10);
        const std::unique_ptr<Dataset> dataset = open_dataset(options);
        std::vector<std::int32_t> tokens(4), targets(4);
        const std::vector<View> views{{tokens.data(), {4}, DType::i32}, {targets.data(), {4}, DType::i32}};
        for (const Split split : {Split::train, Split::validation})
            for (std::int64_t sample = 0; sample < dataset->samples(split); ++sample)
                dataset->read(split, sample, views);
    } catch (const ConfigError& refusal) {
        fuzz::expect_names(refusal.what(), path);
    }
    return 0;
}
