// SPDX-License-Identifier: Apache-2.0
// ldmatrix, mma.sync m16n8k16 and cp.async. Which lane holds what: PTX ISA, "Matrix Fragments for mma.m16n8k16" and
// "ldmatrix".
#include "tests/cuda_emulation/device/tensor_cores.hpp"

#include "tests/cuda_emulation/device/scheduler.hpp"

#include <bit>

namespace tessera {
namespace emulation {
namespace {

Fragments& fragments() { return scheduler->warps[current_thread->warp].fragments; }

// True in the first lane behind a collective of the whole warp.
bool first_to_go_on() {
    Warp& warp = scheduler->warps[current_thread->warp];
    return std::exchange(warp.fragments.done, warp.full.phase) != warp.full.phase;
}

void load_matrices(std::uint32_t (&to)[4], const void* row, bool transposed, const void* code, Site site) {
    if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) fail("ldmatrix: a row is not 16-byte aligned");
    if (watch.access != nullptr) watch.access(row, 16, Access::read, code);
    if (!scheduler->shared.holds(row, 16)) fail("ldmatrix: a row does not lie in shared memory");
    const Gathered all = collective(all_lanes, reinterpret_cast<std::uintptr_t>(row), "ldmatrix", site);
    auto& rows = fragments().rows;
    if (first_to_go_on())
        for (int i = 0; i < 32; ++i)
            std::memcpy(rows[i], reinterpret_cast<const void*>(all.value[i]), 16);
    const int lane = current_thread->lane, outer = lane / 4, inner = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) {
        const auto* const matrix = rows + i * 8;
        const std::uint32_t low = transposed ? matrix[inner][outer] : matrix[outer][inner];
        const std::uint32_t high = transposed ? matrix[inner + 1][outer] : matrix[outer][inner + 1];
        to[i] = low | high << 16;
    }
}

template <class T> float element(std::uint32_t word, int half) {
    return static_cast<float>(std::bit_cast<T>(static_cast<std::uint16_t>(word >> 16 * half)));
}

template <class T> void multiply_fragments(Fragments& all) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; ++lane)
        for (int half = 0; half < 2; ++half) {
            for (int i = 0; i < 4; ++i)
                a[lane / 4 + i % 2 * 8][lane % 4 * 2 + i / 2 * 8 + half] = element<T>(all.a[lane][i], half);
            for (int i = 0; i < 2; ++i)
                b[lane % 4 * 2 + i * 8 + half][lane / 4] = element<T>(all.b[lane][i], half);
        }
    for (int row = 0; row < 16; ++row) {
        float sum[8] = {};
        for (int k = 0; k < 16; ++k)
            for (int column = 0; column < 8; ++column)
                sum[column] += a[row][k] * b[k][column];
        std::memcpy(all.product[row], sum, sizeof sum);
    }
}

template <class T>
void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Site site) {
    Fragments& all = fragments();
    const int lane = current_thread->lane;
    std::memcpy(all.a[lane], a, sizeof a);
    std::memcpy(all.b[lane], b, sizeof b);
    collective(all_lanes, 0, "mma.sync", site);
    if (first_to_go_on()) multiply_fragments<T>(all);
    for (int i = 0; i < 4; ++i)
        d[i] += all.product[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

} // namespace

void wait_for_copies(std::size_t groups_left) {
    Copies& own = scheduler->copies[current_thread->number];
    while (own.groups.size() > groups_left) {
        const auto end = own.copies.begin() + static_cast<std::ptrdiff_t>(own.groups.front());
        for (auto copy = own.copies.begin(); copy != end; ++copy) {
            if (watch.access != nullptr)
                watch.access(copy->to, copy->bytes, Access::write, __builtin_return_address(0));
            std::memcpy(copy->to, copy->from, copy->bytes);
        }
        own.copies.erase(own.copies.begin(), end);
        own.groups.erase(own.groups.begin());
    }
}

} // namespace emulation

namespace cuda {

using namespace emulation;

void load_matrix_x4(std::uint32_t (&to)[4], const void* row, Site site) {
    load_matrices(to, row, false, __builtin_return_address(0), site);
}
void load_matrix_x4_transposed(std::uint32_t (&to)[4], const void* row, Site site) {
    load_matrices(to, row, true, __builtin_return_address(0), site);
}

void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], __nv_bfloat16, Site site) {
    emulation::multiply_add<__nv_bfloat16>(d, a, b, site);
}
void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], __half, Site site) {
    emulation::multiply_add<__half>(d, a, b, site);
}

void copy_16_bytes(void* to_shared, const void* from_global) {
    constexpr std::size_t bytes = 16;
    if ((reinterpret_cast<std::uintptr_t>(to_shared) | reinterpret_cast<std::uintptr_t>(from_global)) % bytes != 0)
        fail("cp.async: an address is not 16-byte aligned");
    if (watch.access != nullptr) {
        watch.access(from_global, bytes, Access::read, __builtin_return_address(0));
        watch.access(to_shared, bytes, Access::write, __builtin_return_address(0));
    }
    if (!scheduler->shared.holds(to_shared, bytes)) fail("cp.async: the target is not in shared memory");
    std::memset(to_shared, settings().fill, bytes);
    scheduler->copies[current_thread->number].copies.push_back({to_shared, from_global, bytes});
    scheduler->copies_used = true;
}

void end_copy_group() {
    Copies& own = scheduler->copies[current_thread->number];
    std::size_t grouped = 0;
    for (const std::size_t size : own.groups)
        grouped += size;
    own.groups.push_back(own.copies.size() - grouped);
    scheduler->copies_used = true;
}

} // namespace cuda
} // namespace tessera
