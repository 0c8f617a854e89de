// SPDX-License-Identifier: Apache-2.0
// An index of Megatron's over a file of 64 tokens; what opens is read to its end.
#include "core/data/data_error.hpp"
#include "core/data/indexed_tokens.hpp"
#include "tests/fuzz/target.hpp"

#include <cstdlib>

using namespace tessera;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::write_file("fuzz.bin", std::string(128, '\1'));
    const std::string path = fuzz::write_file("fuzz.idx", fuzz::text_of(data, size));
    try {
        const fuzz::AllocationLimit limit(size, 16 << 10);
        const IndexedTokens tokens(path);
        for (std::int64_t i = 0; i < tokens.sequences(); ++i)
            for (std::int64_t j = 0; j < tokens.length(i); ++j)
                if (tokens.token(tokens.first_token(i) + j) == 0) std::abort();
    } catch (const DataError& refusal) {
        fuzz::expect_names(refusal.what(), "fuzz.");
    }
    return 0;
}
