// SPDX-License-Identifier: Apache-2.0
// Variables that pass through to libraries.
#include "launcher/job/environment.hpp"

#include "core/visible.hpp"
#include "launcher/job/job.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

namespace tessera {
namespace {

constexpr const char* passed[] = {"CUDA_", "NCCL_", "OMPI_MCA_", "OMP_", "UCX_"};
// How mpirun of Open MPI 4 tells its ranks where they belong.
constexpr const char* of_mpirun[] = {"OMPI_MCA_ess",   "OMPI_MCA_orte_",      "OMPI_MCA_pmix",
                                     "OMPI_MCA_plm",   "OMPI_MCA_shmem_",     "OMPI_MCA_initial_wdir",
                                     "OMPI_MCA_rmaps", "OMPI_MCA_hwloc_base_"};

} // namespace

std::string environment_text(const std::vector<std::string>& variables) {
    std::vector<std::string> told;
    for (const std::string& variable : variables) {
        const auto opens = [&](const char* opening) { return variable.starts_with(opening); };
        if (std::ranges::none_of(passed, opens) || std::ranges::any_of(of_mpirun, opens)) continue;
        if (!looks_like_a_secret(variable.substr(0, variable.find('=')))) told.push_back(visible(variable));
    }
    std::ranges::sort(told);
    return fmt::format("{}", fmt::join(told, " "));
}

std::vector<std::string> environment_here() {
    std::vector<std::string> variables;
    for (char** one = environ; one != nullptr && *one != nullptr; ++one)
        variables.emplace_back(*one);
    return variables;
}

} // namespace tessera
