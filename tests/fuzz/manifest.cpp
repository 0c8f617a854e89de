// SPDX-License-Identifier: Apache-2.0
// A MANIFEST: as it is, and with the hash of its text as its last line, so that what lies behind that is reached.
#include "core/checkpoint/manifest.hpp"

#include "kernels/error.hpp"
#include "tests/fuzz/target.hpp"

#include <cstdlib>
#include <fmt/format.h>

using namespace tessera;

namespace {

void parse(const std::string& text) {
    try {
        const fuzz::AllocationLimit limit(text.size(), 64 << 10);
        const Manifest manifest = parse_manifest(text, "fuzz/MANIFEST");
        find_uncovered(manifest);
        // What is written of it is read as the same again; metadata and hashes have one way only to be written
        const std::string again = text_of(manifest);
        if (text_of(parse_manifest(again, "again")) != again) std::abort();
    } catch (const ConfigError& refusal) {
        fuzz::expect_names(refusal.what(), "fuzz/MANIFEST");
    }
}

} // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string text(fuzz::text_of(data, size));
    parse(text);
    const std::string body = text.substr(0, text.rfind("end "));
    parse(body + fmt::format("end {:016x}\n", Hash::of(body.data(), static_cast<std::int64_t>(body.size()))));
    return 0;
}
