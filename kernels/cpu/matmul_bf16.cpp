// SPDX-License-Identifier: Apache-2.0
// Blocks of bf16 products with the instruction that multiplies pairs (AVX-512 BF16), chosen at run time.
#include "kernels/error.hpp"
#include "kernels/tensor.hpp"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

// All below is compiled for that set, the shared loops too: an intrinsic cannot be inlined into a function without it.
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512bf16")
#include "kernels/cpu/matmul_tile.hpp"

namespace tessera::kernels {
namespace {

struct PairMultiplyAdd {
    TESSERA_INLINE static void step(simd::Floats& sum, float a, simd::Floats b) {
        sum = simd::Floats(_mm512_dpbf16_ps(__m512(sum), __m512bh(_mm512_set1_ps(a)), __m512bh(b)));
    }
    TESSERA_INLINE static void store(float* to, simd::Floats value) { simd::store(to, value); }
    // Rounds like simd::store in one instruction; sums never are the subnormals that it would take for zero.
    TESSERA_INLINE static void store(BFloat16* to, simd::Floats value) {
        const __m256bh rounded = _mm512_cvtneps_pbh(__m512(value));
        std::memcpy(static_cast<void*>(to), &rounded, sizeof rounded);
    }
};

} // namespace

void multiply_block_bf16(const MatmulBlock& block) {
    if (block.a_order == TileOrder::rows)
        multiply_block<false, PairMultiplyAdd>(block);
    else
        multiply_block<true, PairMultiplyAdd>(block);
}
#pragma GCC pop_options

bool has_bf16_instructions() {
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512cd");
}

} // namespace tessera::kernels
#else
#include "kernels/cpu/matmul_block.hpp"

namespace tessera::kernels {

void multiply_block_bf16(const MatmulBlock&) { throw InternalError("this machine has no instructions for bf16"); }
bool has_bf16_instructions() { return false; }

} // namespace tessera::kernels
#endif
