// SPDX-License-Identifier: Apache-2.0
// One choice of algorithms for all ranks of a run, of those that a GPU's libraries offer (kernels/library_choices.hpp).
#pragma once

#include "core/checkpoint/checkpoint.hpp"
#include "core/config.hpp"
#include "kernels/library_choices.hpp"

#include <filesystem>

namespace tessera {

inline constexpr Key<bool> run_tune{
    "run.tune", false, "GPUs: rank 0 times the libraries' algorithms and ours; the run's tuning.txt keeps the fastest"};

// What a log is told; empty: nothing.
struct LibraryAgreement {
    std::string text;
    std::string warning; // on each rank whose cuDNN failed
};

// Collective, before the memory of the run is taken and after its plans have asked the stream for workspaces. Tries on
// memory of its own what those plans may call, so that afterwards all ranks take the same algorithms: without run.tune
// the libraries' first, or a kernel of ours on all ranks where cuDNN fails on one; with it what rank 0 finds fastest
// among those that FOLDER/tuning.txt does not have yet, which is written there. Such a file of another GPU or version
// of the libraries is replaced. On a CPU nothing is done. ConfigError for a damaged file.
LibraryAgreement agree_on_libraries(const Team& team, const Config& config, Stream& stream,
                                    const std::filesystem::path& folder);

// A line for each choice: "words : words".
std::string text_of(const LibraryChoices& choices);
LibraryChoices choices_in(const std::string& text, const std::string& place);

} // namespace tessera
