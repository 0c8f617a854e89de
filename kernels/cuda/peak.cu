// SPDX-License-Identifier: Apache-2.0
// The tensor cores' peak from what the GPU says of itself. It is not measured: clocks under load depend on the moment.
#include "kernels/cuda/launch.cuh"
#include "kernels/peak.hpp"

#include <algorithm>
#include <string_view>

namespace tessera::kernels {
namespace {

// Of a compute capability (CUDA C++ Programming Guide and the makers' architecture papers): dense bf16 operations per
// clock and multiprocessor, and the highest clock that a published peak counts with.
struct Architecture {
    int capability;
    int operations;
    double clock;
};
constexpr Architecture architectures[] = {
    {80, 2048, 1.410e9},  // A100: 108 multiprocessors, 312e12
    {86, 1024, 1.860e9},  // A10, A40, RTX A6000
    {89, 1024, 2.520e9},  // L4, L40S, RTX 6000 Ada
    {90, 4096, 1.830e9},  // H100, H200: 132 multiprocessors, 989e12
    {100, 8192, 1.860e9}, // B200: 148 multiprocessors, 2.25e15
};

int attribute(cudaDeviceAttr which, int device) {
    int value = 0;
    cuda::check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
    return value;
}

} // namespace

double peak_flops(CudaStream& stream) {
    const int device = stream.device();
    const int capability = 10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
                           attribute(cudaDevAttrComputeCapabilityMinor, device);
    const auto* found = std::find_if(std::begin(architectures), std::end(architectures),
                                     [&](const Architecture& known) { return known.capability == capability; });
    if (found == std::end(architectures)) return 0;
    cudaDeviceProp properties;
    cuda::check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    // GeForce cards of these generations halve the rate where sums are f32.
    const bool halved = std::string_view(properties.name).find("GeForce") != std::string_view::npos;
    const double clock = std::min(found->clock, 1e3 * attribute(cudaDevAttrClockRate, device));
    return clock * found->operations / (halved ? 2 : 1) * attribute(cudaDevAttrMultiProcessorCount, device);
}

} // namespace tessera::kernels
