// SPDX-License-Identifier: Apache-2.0
// What a config says otherwise than the one that a checkpoint was saved with.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tessera {

struct ChangedKey {
    std::string name;        // "training.steps"
    std::string before, now; // as TOML text
};

// Of two texts of Config::resolved(), in alphabetical order. Keys that only one of them has are left out: they came
// with another version of the program, whose default they had.
std::vector<ChangedKey> changed_keys(std::string_view before, std::string_view now);

// Whether a run with another value would be neither the one that was saved nor a new one: the model, which samples are
// read in which order, and the seed. (Which files hold the data is told by the data's fingerprint.)
bool changes_the_meaning(std::string_view key);

} // namespace tessera
