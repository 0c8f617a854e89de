// SPDX-License-Identifier: Apache-2.0
// A config's text: TOML over the defaults, its first line as an override, too, and what it resolves to read again.
#include "core/config.hpp"

#include "kernels/error.hpp"
#include "tests/fuzz/target.hpp"

#include <cstdlib>

using namespace tessera;

namespace {

// One or two of each type: each key of the catalog costs a parse of its default in every run.
constexpr Key<std::vector<std::string>> files{"data.files", "one.txt", "a list"};
constexpr Key<std::string> name{"run.name", "", "a string"};
constexpr Key<std::int64_t> steps{"training.steps", 1000, "an integer"};
constexpr Key<std::int64_t> layers{"model.n_layers", 4, "an integer in another section"};
constexpr Key<bool> bias{"model.bias", false, "a bool"};
constexpr Key<double> rate{"optimizer.lr", 1e-3, "a number"};
constexpr Key<std::string> source_name{"data.sources[].name", "", "a string of a table"};
constexpr Key<std::vector<std::string>> source_files{"data.sources[].files", "", "a list of one"};
constexpr Key<double> source_weight{"data.sources[].weight", 1, "a number of one"};

std::vector<KeyInfo> known_keys() {
    return {key_info(files), key_info(source_files), key_info(source_name), key_info(source_weight), key_info(name),
            key_info(steps), key_info(layers),       key_info(bias),        key_info(rate)};
}

} // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text = fuzz::text_of(data, size);
    const std::string line(text.substr(0, text.find('\n')));
    try {
        const fuzz::AllocationLimit limit(size, 1 << 20, 200); // toml++ makes a tree: over 100 bytes for "a=1"
        const Config config = Config::parse(text, "fuzz.toml", {}, known_keys());
        if (Config::parse(config.resolved(), "fuzz.toml", {}, known_keys()).resolved() != config.resolved())
            std::abort();
    } catch (const ConfigError& refusal) {
        fuzz::expect_names(refusal.what(), "fuzz.toml:");
    }
    for (const char* key : {"data.files=", "run.name=", "training.steps=", "model.bias=", "optimizer.lr="})
        try {
            Config::parse("", "fuzz.toml", {key + line}, known_keys());
        } catch (const ConfigError& refusal) {
            fuzz::expect_names(refusal.what(), "command line: ");
        }
    return 0;
}
