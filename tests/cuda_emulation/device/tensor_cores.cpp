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

constexpr std::size_t copied_bytes = 16; // by one cp.async

void begin_copy(void* to, const void* from, const void* code) { // from null: zeros
    if ((reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from)) % copied_bytes != 0)
        fail("cp.async: an address is not 16-byte aligned");
    if (watch.access != nullptr) {
        if (from != nullptr) watch.access(from, copied_bytes, Access::read, code);
        watch.access(to, copied_bytes, Access::write, code);
    }
    if (!scheduler->shared.holds(to, copied_bytes)) fail("cp.async: the target is not in shared memory");
    std::memset(to, settings().fill, copied_bytes);
    scheduler->copies[current_thread->number].copies.push_back({to, from});
    scheduler->copies_used = true;
}

} // namespace

void wait_for_copies(std::size_t groups_left) {
    Copies& own = scheduler->copies[current_thread->number];
    while (own.groups.size() > groups_left) {
        const auto end = own.copies.begin() + static_cast<std::ptrdiff_t>(own.groups.front());
        for (auto copy = own.copies.begin(); copy != end; ++copy) {
            if (watch.access != nullptr)
                watch.access(copy->to, copied_bytes, Access::write, __builtin_return_address(0));
            if (copy->from != nullptr)
                std::memcpy(copy->to, copy->from, copied_bytes);
            else
                std::memset(copy->to, 0, copied_bytes);
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
    begin_copy(to_shared, from_global, __builtin_return_address(0));
}
void copy_16_bytes_if(bool there, void* to_shared, const void* from_global) {
    begin_copy(to_shared, there ? from_global : nullptr, __builtin_return_address(0));
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
