// SPDX-License-Identifier: Apache-2.0
// Asks each loaded library by the function in which it tells its version, found by name: no header of any is wanted,
// and a program built without CUDA asks as one built with it.
#include "launcher/diagnosis/library_versions.hpp"

#include <array>
#include <dlfcn.h>
#include <fmt/format.h>
#include <gnu/libc-version.h>
#include <vector>

namespace tessera {
namespace {

// The function, in the program, what is linked to it, or one of the libraries by their names where that is loaded.
template <class Function> Function* function_of(const char* name, const std::vector<std::string>& libraries) {
    void* found = ::dlsym(RTLD_DEFAULT, name);
    for (const std::string& library : libraries) {
        if (found != nullptr) break;
        void* const handle = ::dlopen(library.c_str(), RTLD_LAZY | RTLD_NOLOAD);
        if (handle == nullptr) continue;
        found = ::dlsym(handle, name); // stays loaded: whoever else has it holds it, too
        ::dlclose(handle);
    }
    return reinterpret_cast<Function*>(found);
}

// "12040" as CUDA tells 12.4.
std::string cuda_version(int number) { return fmt::format("{}.{}", number / 1000, number % 1000 / 10); }

std::string first_words(const std::string& text, int words) {
    std::size_t end = 0;
    for (int i = 0; i < words && end != std::string::npos; ++i)
        end = text.find_first_of(" ,", end == 0 ? 0 : end + 1);
    return text.substr(0, end);
}

void add_mpi(std::map<std::string, std::string>& versions) {
    if (const auto version = function_of<int(char*, int*)>("MPI_Get_library_version", {"libmpi.so.40"})) {
        std::array<char, 8192> text{}; // MPI_MAX_LIBRARY_VERSION_STRING of any MPI is below
        int length = 0;
        if (version(text.data(), &length) == 0) versions["MPI"] = first_words(text.data(), 3);
    }
    if (const auto version = function_of<const char*()>("PMIx_Get_version", {"libpmix.so.2"}))
        versions["PMIx"] = first_words(version(), 2);
    if (const auto version = function_of<const char*()>("ucp_get_version_string", {"libucp.so.0"}))
        versions["UCX"] = version();
}

void add_files_and_cores(std::map<std::string, std::string>& versions) {
    unsigned major = 0, minor = 0, release = 0;
    if (const auto version = function_of<int(unsigned*, unsigned*, unsigned*)>("H5get_libversion", {}))
        if (version(&major, &minor, &release) >= 0) versions["HDF5"] = fmt::format("{}.{}.{}", major, minor, release);
    if (const auto version = function_of<unsigned()>("hwloc_get_api_version", {"libhwloc.so.15"}))
        versions["hwloc API"] = fmt::format("{}.{}.{}", version() >> 16, version() >> 8 & 255, version() & 255);
    if (const auto config = function_of<const char*()>("openblas_get_config", {"libopenblas.so.0"}))
        versions["OpenBLAS"] = config();
    if (const auto version = function_of<const int*()>("dnnl_version", {"libdnnl.so.2"})) // begins with three numbers
        versions["oneDNN"] = fmt::format("{}.{}.{}", version()[0], version()[1], version()[2]);
    versions["C library"] = fmt::format("glibc {}", ::gnu_get_libc_version());
}

void add_gpus(std::map<std::string, std::string>& versions) {
    int number = 0;
    if (const auto version = function_of<int(int*)>("cuDriverGetVersion", {"libcuda.so.1"}))
        if (version(&number) == 0) versions["CUDA driver"] = cuda_version(number);
    if (const auto version = function_of<int(int*)>("cudaRuntimeGetVersion", {"libcudart.so.13", "libcudart.so.12"}))
        if (version(&number) == 0) versions["CUDA runtime"] = cuda_version(number);
    if (const auto version = function_of<int(int*)>("ncclGetVersion", {"libnccl.so.2"}))
        if (version(&number) == 0)
            versions["NCCL"] = fmt::format("{}.{}.{}", number / 10000, number / 100 % 100, number % 100);
    if (const auto version = function_of<std::size_t()>("cudnnGetVersion", {"libcudnn.so.9", "libcudnn.so.8"}))
        versions["cuDNN"] = std::to_string(version());
}

} // namespace

std::map<std::string, std::string> library_versions() {
    std::map<std::string, std::string> versions;
    add_mpi(versions);
    add_files_and_cores(versions);
    add_gpus(versions);
    return versions;
}

} // namespace tessera
