// SPDX-License-Identifier: Apache-2.0
// Against a plain simulation of saves and retention.
#include "core/run/disk_space.hpp"

#include <algorithm>
#include <filesystem>
#include <gtest/gtest.h>
#include <vector>

using namespace tessera;

namespace {

// The most folders there are at once from now on, less those of now. What is there already was saved earlier.
std::int64_t simulated(const ComingSaves& saves) {
    std::vector<std::int64_t> there;
    for (std::int64_t i = saves.present; i > 0; --i)
        there.push_back(-i);
    std::int64_t most = saves.present;
    for (std::int64_t step = saves.done + 1; step <= saves.end; ++step) {
        if (step != saves.end && (saves.interval == 0 || step % saves.interval != 0)) continue;
        there.push_back(step);
        most = std::max(most, static_cast<std::int64_t>(there.size()));
        if (saves.retention.latest == 0) continue;
        std::vector<std::int64_t> kept;
        for (std::size_t i = 0; i < there.size(); ++i) {
            const bool newest = there.size() - i <= static_cast<std::size_t>(saves.retention.latest);
            const bool for_good = there[i] > 0 && saves.retention.every > 0 && there[i] % saves.retention.every == 0;
            if (newest || for_good) kept.push_back(there[i]);
        }
        there = kept;
    }
    return most - saves.present;
}

} // namespace

TEST(DiskSpace, CountsWhatWillBeThereAtOnce) {
    for (const std::int64_t interval : {0, 1, 3, 10, 50})
        for (const std::int64_t done : {0, 7, 20, 30})
            for (const std::int64_t latest : {0, 1, 2, 5})
                for (const std::int64_t present : {0, 1, 2})
                    for (const std::int64_t every : {0, 10}) {
                        if (latest > 0 && present > latest) continue;
                        const ComingSaves saves{1, interval, done, 30, {latest, every}, present};
                        const std::int64_t most = most_at_once(saves), exact = simulated(saves);
                        EXPECT_GE(most, exact)
                            << interval << ' ' << done << ' ' << latest << ' ' << present << ' ' << every;
                        // Those kept for good may be among the newest, too, and are counted twice then.
                        const bool overlaps = every > 0 && latest > 0;
                        EXPECT_LE(most, exact + (overlaps ? 30 / every : 0))
                            << interval << ' ' << done << ' ' << latest << ' ' << present << ' ' << every;
                    }
}

TEST(DiskSpace, AsksForTheNextFolderThatExists) {
    const std::string here = std::filesystem::temp_directory_path().string();
    const std::int64_t free = free_at(here);
    EXPECT_GT(free, 0);
    EXPECT_GT(free_at(here + "/not/there/yet"), free / 2); // others write meanwhile
}
