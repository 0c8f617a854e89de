// SPDX-License-Identifier: Apache-2.0
// What libFuzzer does, but for coverage, where the compiler has none: replays a corpus, then tries mutants of it. The
// same mutants each time.
//   fuzz_NAME [-runs=N] [-max_total_time=SECONDS] [-seed=N] FILE|FOLDER…
#include "tests/fuzz/target.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <unistd.h>
#include <vector>

namespace {

namespace fs = std::filesystem;
using Input = std::vector<std::uint8_t>;

const Input* running = nullptr;

// Leaves the input that ended the process.
void save_and_die(int signal) {
    const int file = open("crash-input", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (file >= 0 && running != nullptr && write(file, running->data(), running->size()) >= 0) close(file);
    const char* said = signal == SIGALRM ? "an input took over 10 seconds; it is in crash-input\n"
                                         : "this input ended the process; it is in crash-input\n";
    if (write(2, said, std::strlen(said)) < 0) _exit(4);
    _exit(3);
}

void run(const Input& input) {
    running = &input;
    alarm(10);
    const Input copy(input.begin(), input.end()); // of its exact size, for the sanitizer to see what lies behind
    LLVMFuzzerTestOneInput(copy.data(), copy.size());
    alarm(0);
}

std::size_t below(std::mt19937_64& random, std::size_t end) { return end == 0 ? 0 : random() % end; }

void replace_number(Input& input, std::mt19937_64& random) {
    constexpr std::array numbers = {"0",
                                    "1",
                                    "-1",
                                    "255",
                                    "65536",
                                    "2147483648",
                                    "4294967297",
                                    "9223372036854775807",
                                    "9223372036854775808",
                                    "18446744073709551615",
                                    "1e999",
                                    "00000000000000000007"};
    const auto is_digit = [](std::uint8_t byte) { return byte >= '0' && byte <= '9'; };
    const auto begin =
        std::find_if(input.begin() + static_cast<std::ptrdiff_t>(below(random, input.size())), input.end(), is_digit);
    const auto end = std::find_if_not(begin, input.end(), is_digit);
    if (begin == end) return;
    const std::string_view number = numbers[below(random, numbers.size())];
    const auto place = input.erase(begin, end);
    input.insert(place, number.begin(), number.end());
}

void mutate(Input& input, const std::vector<Input>& corpus, std::mt19937_64& random) {
    const auto at = [&](std::size_t place) { return input.begin() + static_cast<std::ptrdiff_t>(place); };
    const std::size_t place = below(random, input.size());
    const std::size_t length = std::min(input.size() - place, 1 + below(random, random() % 8 == 0 ? 4096 : 16));
    switch (random() % 9) {
    case 0:
        if (!input.empty()) input[place] ^= static_cast<std::uint8_t>(1 << random() % 8);
        break;
    case 1:
        if (!input.empty()) input[place] = static_cast<std::uint8_t>(random());
        break;
    case 2:
        input.erase(at(place), at(place + length));
        break;
    case 3: { // once more, or many times
        const Input part(at(place), at(place + length));
        for (std::uint64_t copies = random() % 16 == 0 ? 500 : 1; copies > 0 && input.size() < 1 << 16; --copies)
            input.insert(at(place), part.begin(), part.end());
        break;
    }
    case 4: {
        constexpr std::array<std::uint32_t, 8> words = {0, 1, 0xffffffff, 0x7fffffff, 0x80000000, 0x10000, 0xff, 0x100};
        const std::uint32_t word = words[below(random, words.size())];
        std::memcpy(input.data() + place, &word, std::min<std::size_t>(4, input.size() - place));
        break;
    }
    case 5: {
        constexpr std::string_view letters = " \n\t\"'\\{}[](),.:;=#-+_/0123456789aefntux\x80\xff";
        input.insert(at(place), static_cast<std::uint8_t>(letters[below(random, letters.size())]));
        break;
    }
    case 6:
        replace_number(input, random);
        break;
    case 7: {
        const Input& other = corpus[below(random, corpus.size())];
        const std::size_t from = below(random, other.size());
        const std::size_t most = std::min<std::size_t>(other.size() - from, 256);
        input.insert(at(place), other.begin() + static_cast<std::ptrdiff_t>(from),
                     other.begin() + static_cast<std::ptrdiff_t>(from + below(random, most + 1)));
        break;
    }
    default:
        if (random() % 8 == 0) input.resize(place);
    }
}

void add(const fs::path& path, std::vector<Input>& corpus) {
    std::ifstream file(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

} // namespace

int main(int argc, char** argv) {
    std::uint64_t runs = 0, seed = 1, seconds = 0;
    std::vector<fs::path> paths;
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        const std::size_t equals = word.find('=');
        const std::uint64_t number = equals == std::string::npos ? 0 : std::strtoull(&word[equals + 1], nullptr, 10);
        if (word.starts_with("-runs="))
            runs = number;
        else if (word.starts_with("-seed="))
            seed = number;
        else if (word.starts_with("-max_total_time="))
            seconds = number;
        else if (fs::is_directory(word))
            for (const fs::directory_entry& entry : fs::directory_iterator(word))
                paths.push_back(entry.path());
        else
            paths.push_back(word);
    }
    std::sort(paths.begin(), paths.end());
    for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGALRM}) {
        struct sigaction action = {};
        action.sa_handler = save_and_die;
        action.sa_flags = SA_ONSTACK;
        sigaction(signal, &action, nullptr);
    }
    std::vector<Input> corpus;
    for (const fs::path& path : paths)
        add(path, corpus);
    if (corpus.empty()) {
        std::fprintf(stderr, "no corpus: name files or folders\n");
        return 2;
    }
    for (const Input& input : corpus)
        run(input);
    std::mt19937_64 random(seed);
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
    std::uint64_t done = 0;
    while (seconds > 0 ? std::chrono::steady_clock::now() < end : done < runs) {
        Input input = corpus[below(random, corpus.size())];
        for (std::uint64_t i = 0; i <= random() % 5; ++i)
            mutate(input, corpus, random);
        run(input);
        ++done;
    }
    std::printf("%zu inputs of the corpus and %llu mutants\n", corpus.size(), static_cast<unsigned long long>(done));
    return 0;
}

// An allocation of libhdf5 or of malloc counts, too; a sanitizer's finding is a signal like another.
extern "C" const char* __asan_default_options() {
    return "abort_on_error=1:handle_abort=0:max_allocation_size_mb=256:detect_leaks=0:symbolize=1";
}
extern "C" const char* __ubsan_default_options() { return "print_stacktrace=1:abort_on_error=1"; }
