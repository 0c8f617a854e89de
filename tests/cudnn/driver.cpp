// SPDX-License-Identifier: Apache-2.0
// A libcuda.so.1 that loads every program and runs none: with it cuDNN compiles its kernels for a GPU that is not here,
// and says what plans it has. What is not listed it does not ask for (cuDNN 9.19).

namespace {
int loaded = 0;                // what every handle points to
constexpr int no_device = 100; // CUDA_ERROR_NO_DEVICE
constexpr int not_found = 500; // CUDA_ERROR_NOT_FOUND
constexpr int api_version = 13000;
} // namespace

extern "C" {

int cuInit(unsigned) { return no_device; }
int cuGetProcAddress_v2() { return not_found; } // the CUDA runtime takes it for no driver
int cuDriverGetVersion(int* version) {
    *version = api_version;
    return 0;
}
int cuGetErrorString(int, const char** text) {
    *text = "no driver";
    return 0;
}
int cuGetErrorName(int, const char** text) {
    *text = "NO_DRIVER";
    return 0;
}
int cuDeviceGetCount(int* count) {
    *count = 0;
    return 0;
}

int cuLibraryLoadData(void** library) {
    *library = &loaded;
    return 0;
}
int cuLibraryGetKernel(void** kernel) {
    *kernel = &loaded;
    return 0;
}
int cuKernelGetFunction(void** function) {
    *function = &loaded;
    return 0;
}
int cuFuncGetAttribute(int* value) {
    *value = 0;
    return 0;
}
int cuKernelGetAttribute(int* value) {
    *value = 0;
    return 0;
}

#define DOES_NOTHING(name)                                                                                             \
    int name() { return 0; }
DOES_NOTHING(cuLibraryUnload)
DOES_NOTHING(cuLibraryLoadFromFile)
DOES_NOTHING(cuLibraryGetGlobal)
DOES_NOTHING(cuModuleLoadData)
DOES_NOTHING(cuModuleLoadDataEx)
DOES_NOTHING(cuModuleGetFunction)
DOES_NOTHING(cuModuleUnload)
DOES_NOTHING(cuFuncSetAttribute)
DOES_NOTHING(cuKernelSetAttribute)
DOES_NOTHING(cuLaunchKernel)
DOES_NOTHING(cuLaunchKernelEx)
DOES_NOTHING(cuLaunchCooperativeKernel)
DOES_NOTHING(cuOccupancyMaxPotentialClusterSize)
DOES_NOTHING(cuOccupancyMaxActiveClusters)
DOES_NOTHING(cuOccupancyMaxActiveBlocksPerMultiprocessor)
DOES_NOTHING(cuLinkCreate)
DOES_NOTHING(cuLinkAddData)
DOES_NOTHING(cuLinkAddFile)
DOES_NOTHING(cuLinkComplete)
DOES_NOTHING(cuLinkDestroy)
DOES_NOTHING(cuDeviceGet)
DOES_NOTHING(cuDeviceGetAttribute)
DOES_NOTHING(cuCtxGetCurrent)
DOES_NOTHING(cuCtxSetCurrent)
DOES_NOTHING(cuCtxGetDevice)
DOES_NOTHING(cuCtxGetLimit)
DOES_NOTHING(cuCtxPushCurrent)
DOES_NOTHING(cuCtxPopCurrent)
DOES_NOTHING(cuStreamGetCtx)
DOES_NOTHING(cuTensorMapEncodeTiled)
DOES_NOTHING(cuTensorMapEncodeIm2col)

} // extern "C"
