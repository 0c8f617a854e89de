// SPDX-License-Identifier: Apache-2.0
// A file of rank 0 that all ranks read.
#include "launcher/diagnosis/folder_trial.hpp"

#include "core/run/text_file.hpp"
#include "kernels/error.hpp"

#include <chrono>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <iterator>
#include <random>
#include <thread>
#include <unistd.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds patience{5}; // above the 3 s for which NFS clients keep what they know of a folder

std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

} // namespace

std::string existing_folder(const std::string& folder) {
    std::error_code error;
    fs::path path = fs::absolute(folder, error).lexically_normal();
    while (!fs::is_directory(path, error) && path.has_relative_path())
        path = path.parent_path();
    return path.string();
}

std::string try_folder(const Team& team, const std::string& folder) {
    std::string path, problem;
    const std::string content = fmt::format("{:08x}{:08x}", std::random_device()(), std::random_device()());
    if (team.rank == 0) {
        path = fmt::format("{}/.tessera-doctor-{}", folder, content);
        try {
            TextFile(path, TextFile::Mode::replace).write(content);
        } catch (const SystemError& error) {
            problem = error.what();
        }
    }
    path = team.broadcast(path);
    const std::string wanted = team.broadcast(content);
    if (const std::string failed = team.broadcast(problem); !failed.empty()) return failed;
    const auto end = std::chrono::steady_clock::now() + patience;
    while (read(path) != wanted && std::chrono::steady_clock::now() < end)
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
    if (read(path) != wanted) problem = fmt::format("does not see in {} what rank 0 wrote there", folder);
    team.all(true); // all have read
    std::error_code error;
    if (team.rank == 0) fs::remove(path, error);
    return problem;
}

} // namespace tessera
