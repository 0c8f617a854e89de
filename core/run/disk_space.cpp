// SPDX-License-Identifier: Apache-2.0
// Arithmetic of retention, and one question to the file system.
#include "core/run/disk_space.hpp"

#include <algorithm>
#include <filesystem>

namespace tessera {

std::int64_t most_at_once(const ComingSaves& saves) {
    const std::int64_t left = saves.end - saves.done;
    if (left <= 0) return 0;
    const std::int64_t coming =
        saves.interval > 0 ? (saves.end - 1) / saves.interval - saves.done / saves.interval + 1 : 1;
    if (saves.retention.latest <= 0) return coming;
    const std::int64_t every = saves.retention.every;
    const std::int64_t for_good = every > 0 ? saves.end / every - saves.done / every : 0;
    const std::int64_t newest = std::max<std::int64_t>(saves.retention.latest + 1 - saves.present, 1);
    return std::min(coming, newest + for_good);
}

std::int64_t free_at(const std::string& path) {
    std::error_code error;
    std::filesystem::path place = std::filesystem::absolute(path, error);
    while (!error && !std::filesystem::exists(place, error) && place.has_relative_path())
        place = place.parent_path();
    const std::filesystem::space_info space = std::filesystem::space(place, error);
    return error ? -1 : static_cast<std::int64_t>(std::min<std::uintmax_t>(space.available, INT64_MAX));
}

} // namespace tessera
