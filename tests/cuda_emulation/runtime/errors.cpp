// SPDX-License-Identifier: Apache-2.0
// The last error of a thread, and the words for errors; after a failed kernel they say what was wrong with it.
#include "tests/cuda_emulation/runtime/state.hpp"

#include <array>

namespace tessera::emulation {
namespace {

thread_local cudaError_t last_error = cudaSuccess;
thread_local std::string failed_launch; // keeps the text alive that cudaGetErrorString gave out

struct Words {
    cudaError_t error;
    const char* name;
    const char* text;
};
#define TESSERA_EMULATION_ERROR(name, text)                                                                            \
    Words { name, #name, text }
constexpr std::array words{
    TESSERA_EMULATION_ERROR(cudaSuccess, "no error"),
    TESSERA_EMULATION_ERROR(cudaErrorInvalidValue, "invalid argument"),
    TESSERA_EMULATION_ERROR(cudaErrorMemoryAllocation, "out of memory"),
    TESSERA_EMULATION_ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    TESSERA_EMULATION_ERROR(cudaErrorInvalidPitchValue, "invalid pitch argument"),
    TESSERA_EMULATION_ERROR(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    TESSERA_EMULATION_ERROR(cudaErrorInsufficientDriver,
                            "CUDA driver version is insufficient for CUDA runtime version"),
    TESSERA_EMULATION_ERROR(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    TESSERA_EMULATION_ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
    TESSERA_EMULATION_ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    TESSERA_EMULATION_ERROR(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
    TESSERA_EMULATION_ERROR(cudaErrorNotReady, "device not ready"),
    TESSERA_EMULATION_ERROR(cudaErrorHostMemoryAlreadyRegistered,
                            "part or all of the requested memory range is already mapped"),
    TESSERA_EMULATION_ERROR(cudaErrorHostMemoryNotRegistered,
                            "pointer does not correspond to a registered memory region"),
    TESSERA_EMULATION_ERROR(cudaErrorLaunchFailure, "unspecified launch failure"),
    TESSERA_EMULATION_ERROR(cudaErrorNotSupported, "operation not supported"),
    TESSERA_EMULATION_ERROR(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    TESSERA_EMULATION_ERROR(cudaErrorStreamCaptureInvalidated,
                            "operation failed due to a previous error during capture"),
    TESSERA_EMULATION_ERROR(cudaErrorStreamCaptureMerge,
                            "operation would result in a merge of separate capture sequences"),
    TESSERA_EMULATION_ERROR(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began"),
    TESSERA_EMULATION_ERROR(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
    TESSERA_EMULATION_ERROR(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream"),
    TESSERA_EMULATION_ERROR(cudaErrorStreamCaptureImplicit,
                            "operation would make the legacy stream depend on a capturing blocking stream"),
    TESSERA_EMULATION_ERROR(cudaErrorCapturedEvent,
                            "operation not permitted on an event last recorded in a capturing stream"),
    TESSERA_EMULATION_ERROR(cudaErrorStreamCaptureWrongThread,
                            "attempt to terminate a thread-local capture sequence from another thread"),
    TESSERA_EMULATION_ERROR(cudaErrorGraphExecUpdateFailure,
                            "the graph update was not performed because it included changes which violated constraints "
                            "specific to instantiated graph update"),
    TESSERA_EMULATION_ERROR(cudaErrorUnknown, "unknown error"),
};

const Words* find(cudaError_t error) {
    for (const Words& each : words)
        if (each.error == error) return &each;
    return nullptr;
}

} // namespace

cudaError_t report(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

} // namespace tessera::emulation

using namespace tessera::emulation;

extern "C" {

cudaError_t cudaGetLastError() {
    const Locked locked;
    return std::exchange(last_error, state().broken);
}
cudaError_t cudaPeekAtLastError() { return last_error; }

const char* cudaGetErrorName(cudaError_t error) {
    const Words* const found = find(error);
    return found == nullptr ? "unrecognized error code" : found->name;
}

const char* cudaGetErrorString(cudaError_t error) {
    const Locked locked;
    if (error != cudaSuccess && error == state().broken) {
        failed_launch = state().reason;
        return failed_launch.c_str();
    }
    const Words* const found = find(error);
    return found == nullptr ? "unrecognized error code" : found->text;
}

} // extern "C"
