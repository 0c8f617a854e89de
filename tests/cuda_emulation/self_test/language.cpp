// SPDX-License-Identifier: Apache-2.0
// What kernels may rely on: indices, votes, shuffles, atomics, shared memory, tensor-core instructions.
#include <cuda_language.cuh>
#include <gtest/gtest.h>
#include <numeric>
#include <vector>

namespace tessera {
namespace {

// An array that kernels and the host share: pinned memory.
template <class T> class Pinned {
public:
    explicit Pinned(std::size_t count) : count_(count) {
        void* memory = nullptr;
        EXPECT_EQ(cudaHostAlloc(&memory, count * sizeof(T), cudaHostAllocDefault), cudaSuccess);
        data_ = static_cast<T*>(memory);
        std::fill(data_, data_ + count, T());
    }
    Pinned(const Pinned&) = delete;
    Pinned& operator=(const Pinned&) = delete;
    ~Pinned() { cudaFreeHost(data_); }

    T* data() { return data_; }
    T& operator[](std::size_t i) { return data_[i]; }
    std::vector<T> values() const { return {data_, data_ + count_}; }

private:
    T* data_ = nullptr;
    std::size_t count_;
};

template <class... Parameters, class... Arguments>
void run(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes, Arguments... arguments) {
    ASSERT_EQ(cuda::launch_kernel(kernel, grid, block, shared_bytes, nullptr, arguments...), cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

__global__ void number_threads(int* y) {
    const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    const unsigned i = block * blockDim.x * blockDim.y * blockDim.z + thread;
    atomicAdd(&y[i], static_cast<int>(i) + 1);
}

TEST(EmulatedLanguage, EveryThreadRunsOnce) {
    Pinned<int> y(2 * 3 * 4 * 7 * 5 * 2);
    run(number_threads, dim3(2, 3, 4), dim3(7, 5, 2), 0, y.data());
    std::vector<int> expected(y.values().size());
    std::iota(expected.begin(), expected.end(), 1);
    EXPECT_EQ(y.values(), expected);
}

__global__ void shuffle(int* y) {
    const int lane = static_cast<int>(threadIdx.x);
    y[lane] = __shfl_sync(~0u, lane, 5, 8);
    y[32 + lane] = __shfl_xor_sync(~0u, lane, 3);
    y[64 + lane] = __shfl_down_sync(~0u, lane, 2, 16);
    y[96 + lane] = __shfl_up_sync(~0u, lane, 2, 16);
}

TEST(EmulatedLanguage, ShufflesStayInTheirSegments) {
    Pinned<int> y(128);
    run(shuffle, 1, 32, 0, y.data());
    for (int lane = 0; lane < 32; ++lane) {
        const auto at = static_cast<std::size_t>(lane);
        EXPECT_EQ(y[at], lane / 8 * 8 + 5);
        EXPECT_EQ(y[32 + at], lane ^ 3);
        EXPECT_EQ(y[64 + at], lane % 16 < 14 ? lane + 2 : lane);
        EXPECT_EQ(y[96 + at], lane % 16 >= 2 ? lane - 2 : lane);
    }
}

__global__ void vote(unsigned* y) {
    const bool odd = threadIdx.x % 2 == 1;
    const unsigned halves = threadIdx.x % 32 < 16 ? 0xffffu : 0xffff0000u;
    const unsigned ballot = __ballot_sync(halves, odd);
    const int any = __any_sync(~0u, threadIdx.x == 70), all = __all_sync(~0u, threadIdx.x < 96);
    const unsigned same = __match_any_sync(~0u, threadIdx.x % 32 / 8);
    const int sum = __reduce_add_sync(~0u, static_cast<int>(threadIdx.x % 32));
    const int odds = __syncthreads_count(odd);
    if (threadIdx.x >= 90) return; // the others do not wait for those that have gone
    const int some = __syncthreads_or(threadIdx.x == 89), every = __syncthreads_and(threadIdx.x != 89);
    if (threadIdx.x != 64 + 9) return;
    const unsigned values[] = {ballot,
                               static_cast<unsigned>(any),
                               static_cast<unsigned>(all),
                               same,
                               static_cast<unsigned>(sum),
                               static_cast<unsigned>(odds),
                               static_cast<unsigned>(some),
                               static_cast<unsigned>(every)};
    for (int i = 0; i < 8; ++i)
        y[i] = values[i];
}

TEST(EmulatedLanguage, Votes) {
    Pinned<unsigned> y(8);
    run(vote, 1, 100, 0, y.data());
    EXPECT_EQ(y.values(), (std::vector<unsigned>{0xaaaau, 1, 1, 0xff00u, 496, 50, 1, 0}));
}

__global__ void reverse_blocks(const int* x, int* y) {
    TESSERA_SHARED(int, rows, [2][64]);
    TESSERA_DYNAMIC_SHARED(int, row);
    const unsigned i = blockIdx.x * 64 + threadIdx.x;
    rows[1][threadIdx.x] = x[i];
    __syncthreads();
    row[threadIdx.x] = rows[1][63 - threadIdx.x];
    __syncthreads();
    y[i] = row[threadIdx.x];
}

TEST(EmulatedLanguage, SharedMemoryIsTheBlocksOwn) {
    Pinned<int> x(640), y(640);
    for (std::size_t i = 0; i < 640; ++i)
        x[i] = static_cast<int>(i);
    run(reverse_blocks, 10, 64, 64 * sizeof(int), x.data(), y.data());
    for (std::size_t i = 0; i < 640; ++i)
        EXPECT_EQ(y[i], static_cast<int>(i / 64 * 64 + 63 - i % 64));
}

__global__ void change_atomically(int* y) {
    const int i = static_cast<int>(threadIdx.x);
    atomicAdd(&y[0], i);
    atomicSub(&y[1], 1);
    atomicMax(&y[2], i);
    atomicMin(&y[3], -i);
    atomicOr(&y[4], 1 << i % 8);
    atomicAnd(&y[5], ~(1 << i % 4));
    if (atomicCAS(&y[6], 0, i + 1) == 0) atomicExch(&y[7], i + 1);
    atomicInc(reinterpret_cast<unsigned*>(&y[8]), 9);
}

TEST(EmulatedLanguage, Atomics) {
    Pinned<int> y(9);
    y[5] = 0xff;
    run(change_atomically, 1, 64, 0, y.data());
    EXPECT_EQ(y[6], y[7]);
    EXPECT_GT(y[6], 0);
    y[6] = y[7] = 0;
    EXPECT_EQ(y.values(), (std::vector<int>{2016, -64, 63, -63, 0xff, 0xf0, 0, 0, 64 % 10}));
}

// d = a b of (16, 16) and (16, 8), by one warp: a through ldmatrix, b through its transposed form.
template <class T> __global__ void multiply(const T* a, const T* b, float* d) {
    TESSERA_SHARED(T, tile, [16 * 16 + 16 * 16]); // b's rows are 16 apart: ldmatrix reads four matrices
    for (unsigned i = threadIdx.x; i < 256; i += 32) {
        tile[i] = a[i];
        tile[256 + i] = i % 16 < 8 ? b[i / 16 * 8 + i % 16] : T(0.f);
    }
    __syncthreads();
    const int lane = static_cast<int>(threadIdx.x), row = lane % 16, half = lane / 16 * 8;
    std::uint32_t left[4], right[4];
    cuda::load_matrix_x4(left, tile + row * 16 + half);
    cuda::load_matrix_x4_transposed(right, tile + 256 + row * 16 + half);
    float sums[4] = {};
    const std::uint32_t columns[2] = {right[0], right[1]};
    cuda::multiply_add(sums, left, columns, T());
    for (int i = 0; i < 4; ++i)
        d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

template <class T> void expect_product() {
    Pinned<T> a(256), b(128);
    Pinned<float> d(128);
    for (std::size_t i = 0; i < 256; ++i)
        a[i] = T(static_cast<float>(i * 7 % 13) - 6);
    for (std::size_t i = 0; i < 128; ++i)
        b[i] = T(static_cast<float>(i * 5 % 11) - 5);
    run(multiply<T>, 1, 32, 0, a.data(), b.data(), d.data());
    for (std::size_t row = 0; row < 16; ++row)
        for (std::size_t column = 0; column < 8; ++column) {
            float sum = 0;
            for (std::size_t k = 0; k < 16; ++k)
                sum += static_cast<float>(a[row * 16 + k]) * static_cast<float>(b[k * 8 + column]);
            EXPECT_EQ(d[row * 8 + column], sum) << row << " " << column; // whole numbers: exact in any order
        }
}

TEST(EmulatedLanguage, TensorCoresMultiplyBf16) { expect_product<__nv_bfloat16>(); }
TEST(EmulatedLanguage, TensorCoresMultiplyF16) { expect_product<__half>(); }

__global__ void copy_in_groups(const float* x, float* y) {
    TESSERA_SHARED(float, tile, [2][128]);
    for (int group = 0; group < 2; ++group) {
        cuda::copy_16_bytes(&tile[group][threadIdx.x * 4], x + group * 128 + static_cast<int>(threadIdx.x) * 4);
        cuda::end_copy_group();
    }
    cuda::wait_for_copies<1>();
    __syncthreads();
    y[threadIdx.x] = tile[0][threadIdx.x];
    y[32 + threadIdx.x] = tile[1][127 - threadIdx.x]; // not there yet
    __syncthreads();
    cuda::wait_for_copies<0>();
    __syncthreads();
    y[64 + threadIdx.x] = tile[1][threadIdx.x];
}

TEST(EmulatedLanguage, CopiesArriveGroupByGroup) {
    Pinned<float> x(256), y(96);
    for (std::size_t i = 0; i < 256; ++i)
        x[i] = static_cast<float>(i);
    run(copy_in_groups, 1, 32, 0, x.data(), y.data());
    for (std::size_t i = 0; i < 32; ++i) {
        EXPECT_EQ(y[i], x[i]);
        EXPECT_FALSE(y[32 + i] >= 128 && y[32 + i] < 256);
        EXPECT_EQ(y[64 + i], x[128 + i]);
    }
}

} // namespace
} // namespace tessera
