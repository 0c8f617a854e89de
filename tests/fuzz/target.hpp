// SPDX-License-Identifier: Apache-2.0
// What the fuzz targets share: the entry that libFuzzer and driver.cpp call, a limit on what an input may allocate, and
// an input as a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace tessera::fuzz {

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
    return {reinterpret_cast<const char*>(data), size};
}

// While it lives: ends the process when operator new is asked at once for more than twice the input (beside `fixed`,
// what a reader takes whatever its input is), or when all that it has given exceeds `times` the input and `fixed`.
class AllocationLimit {
public:
    AllocationLimit(std::size_t input_bytes, std::size_t fixed, std::size_t times = 64);
    AllocationLimit(const AllocationLimit&) = delete;
    AllocationLimit& operator=(const AllocationLimit&) = delete;
    ~AllocationLimit();
};

// A folder in memory of this process alone, removed at its end.
const std::string& scratch_folder();

// Writes scratch_folder()/NAME; its path.
std::string write_file(const std::string& name, std::string_view content);

// The sentence of a refusal must name what was refused: ends the process otherwise.
void expect_names(const std::string& sentence, const std::string& name);

} // namespace tessera::fuzz
