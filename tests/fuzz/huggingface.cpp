// SPDX-License-Identifier: Apache-2.0
// A tokenizer.json of Hugging Face's; what loads encodes and decodes any text, and saves as itself.
#include "core/data/huggingface/tokenizer.hpp"
#include "kernels/error.hpp"
#include "tests/fuzz/target.hpp"

#include <cstdlib>

using namespace tessera;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        // A value of a tree is 128 bytes, of its text two; vectors double. Beside it, a character at a time, what 256
        // lists are.
        const fuzz::AllocationLimit limit(size, 512 * size + (256 << 10), 1024);
        const huggingface::JsonTokenizer tokenizer(parse_json(fuzz::text_of(data, size), "tokenizer"));
        if (Tokenizer::load(tokenizer.save())->save() != tokenizer.save()) std::abort();
        for (const char* text : {"to be, or not to be", " Größe 世界 👍🏽<s>\t[MASK]\n1234", ""}) {
            const std::vector<std::int32_t> ids = tokenizer.encode(text, "tokenizer");
            for (const std::int32_t id : ids)
                if (id < 0 || id >= tokenizer.vocabulary_size()) std::abort();
            (void)tokenizer.decode(ids);
        }
    } catch (const ConfigError&) {
    }
    return 0;
}
