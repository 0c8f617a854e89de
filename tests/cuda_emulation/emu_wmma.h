// SPDX-License-Identifier: Apache-2.0
// Emulation of nvcuda::wmma (what most code uses of it).  A fragment's elements lie in an unspecified lane on a GPU
// as well; here element e of lane l is the flat index l * num_elements + e.  x[] may be scaled or added, as on a GPU.
#pragma once
#include "emu.h"
namespace nvcuda::wmma {
struct matrix_a; struct matrix_b; struct accumulator; struct row_major; struct col_major;
enum layout_t { mem_row_major, mem_col_major };
template <class Use, int M, int N, int K, class T, class L = void> struct fragment {
  static constexpr int R = std::is_same_v<Use, matrix_b> ? K : M, C = std::is_same_v<Use, matrix_a> ? K : N;
  static constexpr int num_elements = R * C / 32;
  T x[num_elements];
};
template <class F, class T> void fill_fragment(F& f, const T& v) { for (auto& e : f.x) e = v; }
namespace detail {
template <class F> void each(F&& f) { f(::emu::cur->lane); }
template <class Fr, class P> void move(Fr& f, P* p, unsigned ld, bool col, bool in, const char* file, int line) {
  ::emu::collective(~0u, 0, "wmma load or store", file, line);
  if (ld % 8) ::emu::fail("wmma: the leading dimension must be a multiple of 8 (%s:%d)", file, line);
  for (int e = 0; e < Fr::num_elements; ++e) {
    const int i = ::emu::cur->lane * Fr::num_elements + e, r = i / Fr::C, c = i % Fr::C;
    P& m = p[col ? c * ld + r : r * ld + c];
    if (in) f.x[e] = m; else if constexpr (!std::is_const_v<P>) m = f.x[e];
  }
  ::emu::collective(~0u, 0, "wmma load or store", file, line);
}
}  // namespace detail
template <class Use, int M, int N, int K, class T, class L> void load_matrix_sync(fragment<Use, M, N, K, T, L>& f, const T* p, unsigned ld, EMU_SITE) { detail::move(f, p, ld, std::is_same_v<L, col_major>, true, EMU_AT); }
template <int M, int N, int K, class T> void load_matrix_sync(fragment<accumulator, M, N, K, T>& f, const T* p, unsigned ld, layout_t l, EMU_SITE) { detail::move(f, p, ld, l == mem_col_major, true, EMU_AT); }
template <int M, int N, int K, class T> void store_matrix_sync(T* p, fragment<accumulator, M, N, K, T>& f, unsigned ld, layout_t l, EMU_SITE) { detail::move(f, p, ld, l == mem_col_major, false, EMU_AT); }
template <int M, int N, int K, class D, class A, class LA, class LB, class Cc>
void mma_sync(fragment<accumulator, M, N, K, D>& d, const fragment<matrix_a, M, N, K, A, LA>& a, const fragment<matrix_b, M, N, K, A, LB>& b, const fragment<accumulator, M, N, K, Cc>& c, EMU_SITE) {
  const int l = ::emu::cur->lane;
  using FA = fragment<matrix_a, M, N, K, A, LA>;
  using FB = fragment<matrix_b, M, N, K, A, LB>;
  const auto pa = ::emu::collective(~0u, reinterpret_cast<uint64_t>(&a), "wmma::mma_sync", EMU_AT);  // the lanes' fragments stay put
  FA fa[32];
  for (int i = 0; i < 32; ++i) ::emu::peek(&fa[i], reinterpret_cast<const void*>(pa.v[i]), sizeof(FA));
  const auto pb = ::emu::collective(~0u, reinterpret_cast<uint64_t>(&b), "wmma::mma_sync", EMU_AT);
  FB fb[32];
  for (int i = 0; i < 32; ++i) ::emu::peek(&fb[i], reinterpret_cast<const void*>(pb.v[i]), sizeof(FB));
  for (int e = 0; e < M * N / 32; ++e) {
    const int i = l * (M * N / 32) + e, r = i / N, cc = i % N;
    float s = 0;
    for (int k = 0; k < K; ++k) {
      const int ia = r * K + k, ib = k * N + cc;
      s += float(fa[ia / FA::num_elements].x[ia % FA::num_elements]) * float(fb[ib / FB::num_elements].x[ib % FB::num_elements]);
    }
    d.x[e] = D(float(c.x[e]) + s);
  }
  ::emu::collective(~0u, 0, "wmma::mma_sync", EMU_AT);  // nobody's fragment changes before all have read it
}
}  // namespace nvcuda::wmma
