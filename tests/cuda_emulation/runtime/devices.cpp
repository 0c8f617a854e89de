// SPDX-License-Identifier: Apache-2.0
// How many devices there are and what they say of themselves: what an H100 says, where it matters to a program.
#include "tests/cuda_emulation/hopper.hpp"
#include "tests/cuda_emulation/runtime/state.hpp"
#include "tests/cuda_emulation/settings.hpp"

#include <cstdio>

namespace tessera::emulation {

// Behind a function: g++ 12's undefined-behaviour sanitizer takes the address of another file's thread_local for null.
int& current_device() {
    static thread_local int number = 0;
    return number;
}

} // namespace tessera::emulation

using namespace tessera::emulation;

namespace {

bool exists(int device) { return device >= 0 && device < settings().devices; }

cudaDeviceProp properties(int device) {
    cudaDeviceProp result{};
    std::snprintf(result.name, sizeof result.name, "CPU emulation");
    result.uuid.bytes[0] = static_cast<char>(device);
    result.pciBusID = device;
    result.major = settings().capability / 10;
    result.minor = settings().capability % 10;
    result.multiProcessorCount = hopper::multiprocessors;
    result.totalGlobalMem = settings().memory;
    result.l2CacheSize = 50 << 20;
    result.memoryBusWidth = 5120;
    result.warpSize = 32;
    result.maxThreadsPerBlock = result.maxThreadsDim[0] = result.maxThreadsDim[1] = hopper::threads_per_block;
    result.maxThreadsDim[2] = 64;
    result.maxGridSize[0] = 0x7fffffff;
    result.maxGridSize[1] = result.maxGridSize[2] = 65535;
    result.maxThreadsPerMultiProcessor = hopper::threads_per_multiprocessor;
    result.maxBlocksPerMultiProcessor = hopper::blocks_per_multiprocessor;
    result.regsPerBlock = result.regsPerMultiprocessor = 65536;
    result.sharedMemPerBlock = hopper::shared_per_block;
    result.sharedMemPerBlockOptin = hopper::shared_per_block_opted_in;
    result.sharedMemPerMultiprocessor = hopper::shared_per_multiprocessor;
    result.reservedSharedMemPerBlock = hopper::shared_reserved_per_block;
    result.asyncEngineCount = 3;
    result.concurrentKernels = result.unifiedAddressing = result.canMapHostMemory = 1;
    result.streamPrioritiesSupported = result.memoryPoolsSupported = result.hostRegisterSupported = 1;
    return result;
}

// -1: an attribute that is not known here.
long long attribute_of(const cudaDeviceProp& device, cudaDeviceAttr attribute) {
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
        return device.major;
    case cudaDevAttrComputeCapabilityMinor:
        return device.minor;
    case cudaDevAttrMultiProcessorCount:
        return device.multiProcessorCount;
    case cudaDevAttrWarpSize:
        return device.warpSize;
    case cudaDevAttrMaxThreadsPerBlock:
        return device.maxThreadsPerBlock;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        return device.maxThreadsPerMultiProcessor;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
        return device.maxBlocksPerMultiProcessor;
    case cudaDevAttrMaxGridDimX:
        return device.maxGridSize[0];
    case cudaDevAttrMaxGridDimY:
        return device.maxGridSize[1];
    case cudaDevAttrMaxGridDimZ:
        return device.maxGridSize[2];
    case cudaDevAttrMaxRegistersPerBlock:
        return device.regsPerBlock;
    case cudaDevAttrMaxRegistersPerMultiprocessor:
        return device.regsPerMultiprocessor;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        return static_cast<long long>(device.sharedMemPerBlock);
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        return static_cast<long long>(device.sharedMemPerBlockOptin);
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        return static_cast<long long>(device.sharedMemPerMultiprocessor);
    case cudaDevAttrReservedSharedMemoryPerBlock:
        return static_cast<long long>(device.reservedSharedMemPerBlock);
    case cudaDevAttrL2CacheSize:
        return device.l2CacheSize;
    case cudaDevAttrGlobalMemoryBusWidth:
        return device.memoryBusWidth;
    case cudaDevAttrClockRate:
        return 1980000; // kHz
    case cudaDevAttrMemoryClockRate:
        return 2619000; // kHz
    case cudaDevAttrAsyncEngineCount:
        return device.asyncEngineCount;
    case cudaDevAttrConcurrentKernels:
        return device.concurrentKernels;
    case cudaDevAttrUnifiedAddressing:
        return device.unifiedAddressing;
    case cudaDevAttrCanMapHostMemory:
        return device.canMapHostMemory;
    case cudaDevAttrMemoryPoolsSupported:
        return device.memoryPoolsSupported;
    case cudaDevAttrPciBusId:
        return device.pciBusID;
    case cudaDevAttrIntegrated:
    case cudaDevAttrCooperativeLaunch:
    case cudaDevAttrManagedMemory:
    case cudaDevAttrPageableMemoryAccess:
        return 0;
    default:
        return -1;
    }
}

} // namespace

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
    *count = settings().devices;
    return report(*count == 0 ? cudaErrorNoDevice : cudaSuccess);
}

cudaError_t cudaSetDevice(int device) {
    if (settings().devices == 0) return report(cudaErrorNoDevice);
    if (!exists(device)) return report(cudaErrorInvalidDevice);
    current_device() = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
    *device = current_device();
    return report(settings().devices == 0 ? cudaErrorNoDevice : cudaSuccess);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* result, int device) {
    if (!exists(device)) return report(cudaErrorInvalidDevice);
    *result = properties(device);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    if (!exists(device)) return report(cudaErrorInvalidDevice);
    const long long result = attribute_of(properties(device), attribute);
    if (result < 0) {
        std::fprintf(stderr, "CUDA emulation: device attribute %d is not known\n", static_cast<int>(attribute));
        return report(cudaErrorInvalidValue);
    }
    *value = static_cast<int>(result);
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
    *can = 0;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

} // extern "C"
