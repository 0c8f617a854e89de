// SPDX-License-Identifier: Apache-2.0
// Whether NCCL works between the ranks of mpirun, and how fast it sums: mpirun -n RANKS bench_gpu_nccl [LARGEST_MIB].
// Each rank takes the GPU of its number among those that it sees, and begins again at the first one when they are
// fewer. Bandwidth is counted as nccl-tests do: 2 (ranks - 1) / ranks of the bytes, for one rank the bytes themselves.
#include <cstdio>
#include <cstdlib>
#include <cuda_runtime_api.h>
#include <mpi.h>
#include <nccl.h>
#include <vector>

namespace {

int rank = 0, ranks = 1;

[[noreturn]] void fail(const char* call, const char* why) {
    std::fprintf(stderr, "bench_gpu_nccl: rank %d: %s: %s\n", rank, call, why);
    MPI_Abort(MPI_COMM_WORLD, 1);
    std::abort();
}
void check(cudaError_t code, const char* call) {
    if (code != cudaSuccess) fail(call, cudaGetErrorString(code));
}
void check(ncclResult_t code, const char* call) {
    if (code != ncclSuccess) fail(call, ncclGetLastError(nullptr));
}

struct Device {
    cudaStream_t stream = nullptr;
    cudaEvent_t start = nullptr, end = nullptr;
    ncclComm_t communicator = nullptr;
    int number = 0;
};

Device open_device() {
    Device device;
    int count = 0;
    check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
    device.number = rank % count;
    check(cudaSetDevice(device.number), "cudaSetDevice");
    check(cudaStreamCreateWithFlags(&device.stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    check(cudaEventCreate(&device.start), "cudaEventCreate");
    check(cudaEventCreate(&device.end), "cudaEventCreate");
    ncclUniqueId id;
    if (rank == 0) check(ncclGetUniqueId(&id), "ncclGetUniqueId");
    MPI_Bcast(&id, sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    check(ncclCommInitRankConfig(&device.communicator, ranks, id, rank, &config), "ncclCommInitRankConfig");
    return device;
}

// Sums rank + i % 7 over the ranks; every element must be right.
void check_sum(const Device& device, float* memory, std::size_t count) {
    std::vector<float> values(count);
    for (std::size_t i = 0; i < count; ++i)
        values[i] = static_cast<float>(rank) + static_cast<float>(i % 7);
    const std::size_t bytes = count * sizeof(float);
    check(cudaMemcpyAsync(memory, values.data(), bytes, cudaMemcpyHostToDevice, device.stream), "cudaMemcpyAsync");
    check(ncclAllReduce(memory, memory, count, ncclFloat, ncclSum, device.communicator, device.stream),
          "ncclAllReduce");
    check(cudaMemcpyAsync(values.data(), memory, bytes, cudaMemcpyDeviceToHost, device.stream), "cudaMemcpyAsync");
    check(cudaStreamSynchronize(device.stream), "cudaStreamSynchronize");
    for (std::size_t i = 0; i < count; ++i)
        if (values[i] !=
            static_cast<float>(ranks * (ranks - 1)) / 2 + static_cast<float>(ranks) * static_cast<float>(i % 7))
            fail("ncclAllReduce", "a sum is wrong");
}

double seconds_of_sum(const Device& device, float* memory, std::size_t count, int runs) {
    const auto sum = [&] {
        check(ncclAllReduce(memory, memory, count, ncclFloat, ncclSum, device.communicator, device.stream),
              "ncclAllReduce");
    };
    check(cudaMemsetAsync(memory, 0, count * sizeof(float), device.stream), "cudaMemsetAsync");
    sum();
    MPI_Barrier(MPI_COMM_WORLD);
    check(cudaEventRecord(device.start, device.stream), "cudaEventRecord");
    for (int run = 0; run < runs; ++run)
        sum();
    check(cudaEventRecord(device.end, device.stream), "cudaEventRecord");
    check(cudaStreamSynchronize(device.stream), "cudaStreamSynchronize");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, device.start, device.end), "cudaEventElapsedTime");
    return 1e-3 * static_cast<double>(milliseconds) / runs;
}

void measure(std::size_t largest) {
    const Device device = open_device();
    float* memory = nullptr;
    check(cudaMalloc(reinterpret_cast<void**>(&memory), largest), "cudaMalloc");
    int version = 0;
    check(ncclGetVersion(&version), "ncclGetVersion");
    if (rank == 0) std::printf("NCCL %d, ranks: %d\n%12s %12s %12s\n", version, ranks, "bytes", "microseconds", "GB/s");
    for (std::size_t bytes = 4096; bytes <= largest; bytes *= 8) {
        const std::size_t count = bytes / sizeof(float);
        check_sum(device, memory, count);
        const double seconds = seconds_of_sum(device, memory, count, 10);
        const double share = ranks == 1 ? 1 : 2.0 * (ranks - 1) / ranks;
        if (rank == 0)
            std::printf("%12zu %12.1f %12.2f\n", bytes, 1e6 * seconds,
                        share * static_cast<double>(bytes) / seconds / 1e9);
    }
    check(ncclCommDestroy(device.communicator), "ncclCommDestroy");
    check(cudaFree(memory), "cudaFree");
    check(cudaEventDestroy(device.start), "cudaEventDestroy");
    check(cudaEventDestroy(device.end), "cudaEventDestroy");
    check(cudaStreamDestroy(device.stream), "cudaStreamDestroy");
    if (rank == 0) std::printf("every sum was right\n");
}

} // namespace

int main(int argc, char** argv) {
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    measure((argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 256) << 20);
    MPI_Finalize();
}
