// SPDX-License-Identifier: Apache-2.0
// Each planted fault is found by the mode that is meant to find it, and no mode finds fault with its sound twin.
#include <algorithm>
#include <array>
#include <cstdio>
#include <gtest/gtest.h>
#include <string>
#include <sys/wait.h>
#include <vector>

namespace tessera {
namespace {

struct Mode {
    const char* name;
    const char* variables;  // # stands for the seed
    int seeds = 1;          // how many of them; one that finds a fault is enough
    bool checked = false;   // with the checked program
    bool sanitized = false; // with the sanitized program
};
constexpr std::array modes{
    Mode{"forward", ""},
    Mode{"reverse", "ORDER=reverse"},
    Mode{"random", "ORDER=# FILL=127", 3},
    Mode{"lazy", "STREAMS=lazy"},
    Mode{"shuffled", "STREAMS=#", 8},
    Mode{"threads", "STREAMS=threads"},
    Mode{"protected", "PROTECT=1"},
    Mode{"checked", "", 1, true, false},
    Mode{"sanitized", "", 1, false, true},
};

enum class Sign { wrong, error, crash };
struct Case {
    const char* fault;
    const char* mode;
    Sign sign;
    const char* words; // in what it prints
};

#ifdef __SANITIZE_ADDRESS__
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

// Where the whole build is sanitized, every program is.
const char* program_of(const Mode& mode) {
    if (mode.checked) return EMULATION_FAULTS_CHECKED;
    return mode.sanitized && !sanitized ? EMULATION_FAULTS_SANITIZED : EMULATION_FAULTS;
}

bool available(const Mode& mode) { return *program_of(mode) != 0; }

struct Ending {
    int status = 0;
    std::string output;
};

Ending run(const Mode& mode, int seed, const std::string& fault) {
    std::string variables = " ";
    for (const char* c = mode.variables; *c != 0; ++c) {
        if (variables.back() == ' ') variables += "TESSERA_EMULATION_";
        variables += *c == '#' ? std::to_string(seed) : std::string(1, *c);
    }
    const std::string command =
        "env" + variables + " OPENBLAS_NUM_THREADS=1 timeout 60 " + program_of(mode) + " " + fault + " 2>&1";
    Ending result;
    std::FILE* const pipe = popen(command.c_str(), "r");
    std::array<char, 4096> text;
    while (const std::size_t size = std::fread(text.data(), 1, text.size(), pipe))
        result.output.append(text.data(), size);
    result.status = pclose(pipe);
    return result;
}

std::string what_happened(const Ending& run) {
    if (run.output.find("AddressSanitizer") != std::string::npos ||
        run.output.find("runtime error") != std::string::npos)
        return "crash";
    if (!WIFEXITED(run.status)) return "crash";
    const int code = WEXITSTATUS(run.status);
    return code == 0    ? "nothing"
           : code == 3  ? "error"
           : code == 4  ? "wrong"
           : code > 128 ? "crash"
                        : "exit " + std::to_string(code);
}

std::string text_of(Sign sign) { return sign == Sign::wrong ? "wrong" : sign == Sign::error ? "error" : "crash"; }

class Faults : public testing::TestWithParam<Case> {};

// In a sanitized build the sanitizer may be the first to notice.
bool is_found(const Ending& ending, const Case& expected) {
    const std::string happened = what_happened(ending);
    if (sanitized && happened == "crash") return true;
    return happened == text_of(expected.sign) && ending.output.find(expected.words) != std::string::npos;
}

TEST_P(Faults, AreFound) {
    const Case& expected = GetParam();
    const auto* const mode = std::find_if(modes.begin(), modes.end(),
                                          [&](const Mode& each) { return std::string(each.name) == expected.mode; });
    ASSERT_NE(mode, modes.end());
    if (!available(*mode)) GTEST_SKIP() << "this build has no mode " << mode->name;
    std::string seen;
    for (int seed = 1; seed <= mode->seeds; ++seed) {
        const Ending ending = run(*mode, seed, expected.fault);
        if (is_found(ending, expected)) return;
        seen += what_happened(ending) + ": " + ending.output + "\n";
    }
    FAIL() << "expected " << text_of(expected.sign) << " " << expected.words << ", found " << seen;
}

INSTANTIATE_TEST_SUITE_P(
    All, Faults,
    testing::Values(Case{"missing_barrier", "reverse", Sign::wrong, ""},
                    Case{"missing_barrier", "checked", Sign::error, "race on shared memory"},
                    Case{"overwrites_too_early", "reverse", Sign::wrong, ""},
                    Case{"overwrites_too_early", "checked", Sign::error, "race on shared memory"},
                    Case{"missing_syncwarp", "checked", Sign::error, "race on shared memory"},
                    Case{"missing_atomic", "checked", Sign::error, "race on shared memory"},
                    Case{"blocks_write_one_word", "checked", Sign::error, "race on global memory"},
                    Case{"missing_fence", "checked", Sign::error, "race on global memory"},
                    Case{"divergent_barrier", "forward", Sign::error, "others of the block are in a barrier"},
                    Case{"shuffle_without_all_lanes", "forward", Sign::error, "deadlock"},
                    Case{"shuffle_from_an_idle_lane", "forward", Sign::wrong, ""},
                    Case{"lane_outside_of_its_mask", "forward", Sign::error, "not in the mask"},
                    Case{"copy_not_waited_for", "forward", Sign::wrong, ""},
                    Case{"copy_without_a_barrier", "forward", Sign::wrong, ""},
                    Case{"copy_without_a_barrier", "checked", Sign::error, "race on shared memory"},
                    Case{"matrix_rows_not_aligned", "forward", Sign::error, "not 16-byte aligned"},
                    Case{"writes_beyond_the_end", "checked", Sign::error, "byte 1000 of 1000"},
                    Case{"writes_beyond_the_end", "sanitized", Sign::crash, "use-after-poison"},
                    Case{"writes_far_beyond_the_end", "forward", Sign::crash, "beyond the end"},
                    Case{"reads_beyond_the_end", "checked", Sign::error, "byte 1000 of 1000"},
                    Case{"reads_beyond_the_end", "sanitized", Sign::crash, "use-after-poison"},
                    Case{"beyond_static_shared", "checked", Sign::error, "outside of the block's shared memory"},
                    Case{"beyond_static_shared", "sanitized", Sign::crash, "use-after-poison"},
                    Case{"beyond_dynamic_shared", "checked", Sign::error, "outside of the block's shared memory"},
                    Case{"beyond_dynamic_shared", "sanitized", Sign::crash, "use-after-poison"},
                    Case{"uninitialised_global", "forward", Sign::wrong, ""},
                    Case{"uninitialised_shared", "forward", Sign::wrong, ""},
                    Case{"garbage_lost_in_a_maximum", "random", Sign::wrong, ""},
                    Case{"misaligned_vector", "forward", Sign::error, "not aligned"},
                    Case{"misaligned_structure", "checked", Sign::error, "not aligned"},
                    Case{"misaligned_structure", "sanitized", Sign::crash, "misaligned"},
                    Case{"host_pointer", "checked", Sign::error, "no memory of the device"},
                    Case{"use_after_free", "forward", Sign::crash, "freed"},
                    Case{"copy_of_freed_memory", "forward", Sign::error, "cudaErrorInvalidValue"},
                    Case{"memory_of_another_device", "checked", Sign::error, "memory of device 1"},
                    Case{"stream_of_another_device", "forward", Sign::error, "cudaErrorInvalidResourceHandle"},
                    Case{"another_threads_variable", "checked", Sign::error, "another thread's variable"},
                    Case{"too_much_dynamic_shared", "forward", Sign::error, "cudaErrorInvalidValue"},
                    Case{"too_much_shared_together", "forward", Sign::error, "of static and"},
                    Case{"missing_event", "shuffled", Sign::wrong, ""},
                    Case{"default_stream_not_waited_for", "shuffled", Sign::wrong, ""},
                    Case{"reads_before_waiting", "lazy", Sign::wrong, ""},
                    Case{"pinned_memory_reused_early", "lazy", Sign::wrong, ""},
                    Case{"host_touches_device_memory", "protected", Sign::crash, "the host touches device memory"},
                    Case{"destroyed_stream", "forward", Sign::error, "cudaErrorInvalidResourceHandle"},
                    Case{"graph_without_a_join", "forward", Sign::error, "cudaErrorStreamCaptureUnjoined"},
                    Case{"graph_without_a_dependency", "shuffled", Sign::wrong, ""},
                    Case{"waits_in_a_capture", "forward", Sign::error, "cudaErrorStreamCaptureUnsupported"},
                    Case{"allocates_in_a_capture", "forward", Sign::error, "cudaErrorStreamCaptureUnsupported"}),
    [](const auto& each) { return std::string(each.param.fault) + "_" + each.param.mode; });

TEST(SoundTwins, PassInEveryMode) {
    for (const Mode& mode : modes) {
        if (!available(mode)) continue;
        for (int seed = 1; seed <= mode.seeds; ++seed) {
            const Ending ending = run(mode, seed, "");
            EXPECT_EQ(what_happened(ending), "nothing") << mode.name << ": " << ending.output;
        }
    }
}

} // namespace
} // namespace tessera
