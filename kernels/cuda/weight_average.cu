// SPDX-License-Identifier: Apache-2.0
// Running averages on the GPU; as in update.cu, many tensors in a launch.
#include "kernels/cuda/element_shares.cuh"
#include "kernels/weight_average.hpp"
#include "kernels/weight_average_check.hpp"

namespace tessera::kernels {
namespace {

using cuda::Four, cuda::Share;

struct Pointers {
    float* one;
    float* other;
    std::int64_t count;
    bool aligned;
};
using Table = cuda::TensorTable<Pointers>;

__global__ void __launch_bounds__(cuda::share_threads)
    average_kernel(const Table table, const float* __restrict__ share_of_weight, const float* __restrict__ factor) {
    const int which = table.of_block(blockIdx.x);
    const Pointers tensor = table.tensor[which];
    const float now = *share_of_weight;
    if (*factor == 0) return;
    cuda::for_shares(blockIdx.x - table.first_block[which], tensor.count, tensor.aligned, [&](const Share& share) {
        const Four weight = share.load(tensor.one);
        Four average = share.load(tensor.other);
#pragma unroll
        for (int i = 0; i < 4; ++i)
            average.element[i] =
                now == 1 ? weight.element[i] : fmaf(weight.element[i] - average.element[i], now, average.element[i]);
        share.store(tensor.other, average);
    });
}

__global__ void __launch_bounds__(cuda::share_threads) exchange_kernel(const Table table) {
    const int which = table.of_block(blockIdx.x);
    const Pointers tensor = table.tensor[which];
    cuda::for_shares(blockIdx.x - table.first_block[which], tensor.count, tensor.aligned, [&](const Share& share) {
        const Four one = share.load(tensor.one), other = share.load(tensor.other);
        share.store(tensor.one, other);
        share.store(tensor.other, one);
    });
}

template <class Launch> void for_tables(std::span<const View> one, std::span<const View> other, const Launch& launch) {
    const auto add = [&](Pointers& to, std::size_t i) {
        const std::int64_t count = one[i].count();
        to = {cuda::pointer<float>(one[i]), cuda::pointer<float>(other[i]), count, false};
        to.aligned = cuda::aligned({to.one, to.other});
        return cuda::blocks(count, cuda::elements_per_block);
    };
    cuda::for_tables<Pointers>(one.size(), add, launch);
}

} // namespace

void average_weights(CudaStream& stream, ConstView share, ConstView factor, std::span<const View> weights,
                     std::span<const View> averages) {
    check_average(share, factor, weights, averages);
    for_tables(weights, averages, [&](const Table& table) {
        cuda::launch("average_weights", stream, average_kernel, cuda::blocks(table), cuda::share_threads, 0, table,
                     cuda::pointer<float>(share), cuda::pointer<float>(factor));
    });
}

void exchange(CudaStream& stream, std::span<const View> one, std::span<const View> other) {
    check_alike("exchange", one, other);
    for_tables(one, other, [&](const Table& table) {
        cuda::launch("exchange", stream, exchange_kernel, cuda::blocks(table), cuda::share_threads, 0, table);
    });
}

} // namespace tessera::kernels
