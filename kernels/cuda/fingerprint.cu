// SPDX-License-Identifier: Apache-2.0
// Fingerprints on the GPU: a block sums a piece of a tensor, and integers may be added in any order.
#include "kernels/cuda/tensor_table.cuh"
#include "kernels/fingerprint.hpp"

namespace tessera::kernels {
namespace {

using Word = unsigned long long;

constexpr int threads = 256;
constexpr std::int64_t elements_per_block = threads * 64;

struct Marked {
    const unsigned* x;
    Word* sum;
    std::int64_t count;
};

__device__ __forceinline__ Word mixed(Word x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

__global__ void __launch_bounds__(threads) fingerprints_kernel(const cuda::TensorTable<Marked> table) {
    const int number = table.of_block(blockIdx.x);
    const Marked tensor = table.tensor[number];
    const std::int64_t start = static_cast<std::int64_t>(blockIdx.x - table.first_block[number]) * elements_per_block;
    const std::int64_t left = tensor.count - start,
                       end = start + (left < elements_per_block ? left : elements_per_block);
    Word sum = 0;
    for (std::int64_t i = start + static_cast<int>(threadIdx.x); i < end; i += threads)
        sum += mixed(static_cast<Word>(i) * 0x9e3779b97f4a7c15u + tensor.x[i] * static_cast<Word>(0xd6e8feb86659fd93u));
    atomicAdd(tensor.sum, sum);
}

} // namespace

void fingerprints(CudaStream& stream, std::span<const View> x, View sums) {
    check_count("fingerprints", "the result", sums, 2 * static_cast<std::int64_t>(x.size()));
    if (x.empty()) return;
    auto* words = static_cast<Word*>(sums.memory());
    cuda::check(cudaMemsetAsync(words, 0, static_cast<std::size_t>(sums.bytes()), stream.state().stream),
                "cudaMemsetAsync", sums.bytes());
    const auto add = [&](Marked& tensor, std::size_t i) {
        if (bytes_of(x[i].dtype) != 4) refuse_dtype("fingerprints", x[i].dtype);
        tensor = {static_cast<const unsigned*>(x[i].memory()), words + i, x[i].count()};
        return cuda::blocks(tensor.count, elements_per_block);
    };
    cuda::for_tables<Marked>(x.size(), add, [&](const cuda::TensorTable<Marked>& table) {
        cuda::launch("fingerprints", stream, fingerprints_kernel, cuda::blocks(table), threads, 0, table);
    });
}

} // namespace tessera::kernels
