// SPDX-License-Identifier: Apache-2.0
// A tokenizer's JSON; what loads encodes, decodes and saves as it promises.
#include "core/data/tokenizer.hpp"

#include "kernels/error.hpp"
#include "tests/fuzz/target.hpp"

#include <cstdlib>

using namespace tessera;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const fuzz::AllocationLimit limit(size, 64 << 10);
        const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::load(fuzz::text_of(data, size));
        if (Tokenizer::load(tokenizer->save())->save() != tokenizer->save()) std::abort();
        const std::string text = "to be, or not to be";
        std::vector<std::int32_t> tokens;
        try {
            tokens = tokenizer->encode(text);
        } catch (const ConfigError&) { // a letter that is none of its own
            return 0;
        }
        if (tokenizer->decode(tokens) != text) std::abort();
    } catch (const ConfigError& refusal) {
        fuzz::expect_names(refusal.what(), "tokenizer");
    }
    return 0;
}
