// SPDX-License-Identifier: Apache-2.0
// operator new that counts, and the scratch folder.
#include "tests/fuzz/target.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <malloc.h>
#include <new>
#include <stdlib.h>

namespace {

bool limited = false;
std::size_t most_at_once = 0, most_in_all = 0, live = 0;

[[noreturn]] void too_much(const char* what, std::size_t bytes, std::size_t most) {
    limited = false; // printing may allocate
    std::fprintf(stderr, "allocation beyond the limit: %zu bytes %s, at most %zu are allowed\n", bytes, what, most);
    std::abort();
}

void* allocate(std::size_t bytes) {
    if (limited && bytes > most_at_once) too_much("at once", bytes, most_at_once);
    void* memory = std::malloc(bytes);
    if (memory == nullptr) throw std::bad_alloc();
    live += malloc_usable_size(memory);
    if (limited && live > most_in_all) too_much("in all", live, most_in_all);
    return memory;
}

void release(void* memory) {
    if (memory != nullptr) live -= std::min(live, malloc_usable_size(memory)); // not all was counted
    std::free(memory);
}

} // namespace

void* operator new(std::size_t bytes) { return allocate(bytes); }
void* operator new[](std::size_t bytes) { return allocate(bytes); }
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return std::malloc(bytes); } // libFuzzer's own
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept { return std::malloc(bytes); }
void operator delete(void* memory) noexcept { release(memory); }
void operator delete[](void* memory) noexcept { release(memory); }
void operator delete(void* memory, std::size_t) noexcept { release(memory); }
void operator delete[](void* memory, std::size_t) noexcept { release(memory); }

namespace tessera::fuzz {

AllocationLimit::AllocationLimit(std::size_t input_bytes, std::size_t fixed, std::size_t times) {
    most_at_once = fixed + 2 * input_bytes;
    most_in_all = live + fixed + times * input_bytes;
    limited = true;
}

AllocationLimit::~AllocationLimit() { limited = false; }

const std::string& scratch_folder() {
    struct Folder {
        std::string path = "/dev/shm/tessera-fuzz-XXXXXX";
        Folder() {
            if (mkdtemp(path.data()) == nullptr) std::abort();
        }
        ~Folder() { std::filesystem::remove_all(path); }
    };
    static const Folder folder;
    return folder.path;
}

std::string write_file(const std::string& name, std::string_view content) {
    const std::string path = scratch_folder() + "/" + name;
    std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
    return path;
}

void expect_names(const std::string& sentence, const std::string& name) {
    if (sentence.find(name) != std::string::npos) return;
    std::fprintf(stderr, "the refusal does not name '%s': %s\n", name.c_str(), sentence.c_str());
    std::abort();
}

} // namespace tessera::fuzz
