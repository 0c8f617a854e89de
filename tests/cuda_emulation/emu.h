// SPDX-License-Identifier: Apache-2.0
// CPU emulation of the CUDA execution model, for compiling .cu files with g++ or clang++.
// Blocks run one after another; the threads of a block are fibers on one OS thread, switched only at
// barriers and warp collectives (or at random memory accesses in the checking build, see emu_check.cpp).
#pragma once
#ifdef __CUDACC__
#error "emu.h belongs to the host build; nvcc must not see it"
#endif
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <utility>

#undef __shared__
#define __shared__ static thread_local  // works, unchecked; TESSERA_SHARED below is filled with NaN and bounds-checked
#define __launch_bounds__(...)
#define TESSERA_SHARED(T, name, ...)       \
  typedef T name##_t_ __VA_ARGS__;     \
  static char name##_key_;             \
  name##_t_& name = *static_cast<name##_t_*>(::emu::static_shared(&name##_key_, sizeof(name##_t_), alignof(name##_t_)))
#define TESSERA_DYNAMIC_SHARED(T, name) T* const name = reinterpret_cast<T*>(::emu::blk.dyn)
#define EMU_SITE const char *file_ = __builtin_FILE(), int line_ = __builtin_LINE()
#define EMU_AT file_, line_
#define EMU_RAW __attribute__((no_sanitize("thread"), noinline))

namespace emu {
struct Error : std::runtime_error { using std::runtime_error::runtime_error; };
struct Fiber;
struct Async;
struct Thread {
  Fiber* fiber;  // non-null while suspended or running
  uint3 tid;
  uint16_t lin;
  uint8_t lane, warp;
  bool done;
  int line;  // where it waits
  const char *what, *file;
  Async* async;
};
struct Block {  // the running block
  uint3 bid;
  dim3 bdim, gdim;
  char* dyn;
  uint32_t dyn_bytes, alive, arrived, epoch, launch;
  uint64_t lin;  // linear block index
  int acc[2];    // of __syncthreads_count and the like
};
extern constinit thread_local Thread* cur;  // null outside kernels
extern constinit thread_local Block blk;
enum class Order { forward, reverse, random };
struct Config { Order order; uint64_t seed; bool strict; };
extern constinit thread_local Config config;  // order from $EMU_ORDER: forward | reverse | <seed>
void configure(const char* order);

struct Got { const uint64_t* v; uint32_t who; };  // what each lane gave, and which lanes did
Got collective(uint32_t mask, uint64_t v, const char* what, const char* file, int line);
void sync_warp(uint32_t mask, const char* file, int line);
int sync_block(int v, const char* what, const char* file, int line);
uint64_t* wide(bool after);  // this warp's [32][4] words: fill own row, collective(kAll), read the others' rows
void async_copy(void* smem, const void* global, size_t n);
void async_commit();
void async_wait(size_t left);
void peek(void* to, const void* other_lanes, size_t n);  // a copy that the checker does not see
void* static_shared(const void* key, size_t size, size_t align);
[[noreturn]] void fail(const char* fmt, ...);
void run(dim3 grid, dim3 block, size_t smem, void (*body)(void*), void* arg, size_t call_bytes, const void* args, size_t args_bytes);
cudaError_t check_launch(const void* kernel, dim3 grid, dim3 block, size_t smem);
cudaError_t enqueue(cudaStream_t s, std::function<void()> op, const char* what);  // in emu_cudart.cpp
extern void (*on_atomic)(void*, size_t);
extern void (*on_access)(const void*, size_t, bool write);
extern void (*on_fence)();
uint32_t warp_epoch();

template <class T> uint64_t pack(T v) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t r = 0;
  std::memcpy(&r, &v, sizeof v);
  return r;
}
template <class T> T unpack(uint64_t r) {
  T v;
  std::memcpy(&v, &r, sizeof v);
  return v;
}
// Source lane j; own value where the segment ends, all-ones (a NaN) from a lane that did not take part.
template <class T> T from_lane(const Got& g, int j, bool in, T own) {
  return !in ? own : g.who >> j & 1 ? unpack<T>(g.v[j]) : unpack<T>(~uint64_t{0});
}
template <class T, class F> EMU_RAW T rmw(T* p, F f) {
  if (on_atomic) on_atomic(p, sizeof(T));
  const T old = *p;
  *p = f(old);
  return old;
}
}  // namespace emu

#define threadIdx (::emu::cur->tid)
#define blockIdx (::emu::blk.bid)
#define blockDim (::emu::blk.bdim)
#define gridDim (::emu::blk.gdim)
#define warpSize 32

// ---- barriers, votes, shuffles
inline void __syncthreads(EMU_SITE) { emu::sync_block(0, "__syncthreads", EMU_AT); }
inline int __syncthreads_count(int p, EMU_SITE) { return emu::sync_block(p != 0, "__syncthreads_count", EMU_AT); }
inline int __syncthreads_or(int p, EMU_SITE) { return emu::sync_block(p != 0, "__syncthreads_or", EMU_AT) > 0; }
inline int __syncthreads_and(int p, EMU_SITE) { return emu::sync_block(p == 0, "__syncthreads_and", EMU_AT) == 0; }
inline void __syncwarp(unsigned m = ~0u, EMU_SITE) { emu::sync_warp(m, EMU_AT); }
inline unsigned __activemask() { return 1u << emu::cur->lane; }
inline unsigned __ballot_sync(unsigned m, int p, EMU_SITE) {
  const auto g = emu::collective(m, p != 0, "__ballot_sync", EMU_AT);
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= unsigned(g.who >> i & 1 && g.v[i]) << i;
  return r;
}
inline int __any_sync(unsigned m, int p, EMU_SITE) { return __ballot_sync(m, p, EMU_AT) != 0; }
inline int __all_sync(unsigned m, int p, EMU_SITE) { return __ballot_sync(m, !p, EMU_AT) == 0; }
template <class T> T __shfl_sync(unsigned m, T v, int src, int w = 32, EMU_SITE) {
  const auto g = emu::collective(m, emu::pack(v), "__shfl_sync", EMU_AT);
  const int lane = emu::cur->lane;
  return emu::from_lane(g, (lane & ~(w - 1)) | (src & (w - 1)), true, v);
}
template <class T> T __shfl_xor_sync(unsigned m, T v, int x, int w = 32, EMU_SITE) {
  const auto g = emu::collective(m, emu::pack(v), "__shfl_xor_sync", EMU_AT);
  const int lane = emu::cur->lane, j = lane ^ x;
  return emu::from_lane(g, j & 31, j <= (lane | (w - 1)), v);
}
template <class T> T __shfl_down_sync(unsigned m, T v, unsigned d, int w = 32, EMU_SITE) {
  const auto g = emu::collective(m, emu::pack(v), "__shfl_down_sync", EMU_AT);
  const int lane = emu::cur->lane, j = lane + int(d);
  return emu::from_lane(g, j & 31, j <= (lane | (w - 1)), v);
}
template <class T> T __shfl_up_sync(unsigned m, T v, unsigned d, int w = 32, EMU_SITE) {
  const auto g = emu::collective(m, emu::pack(v), "__shfl_up_sync", EMU_AT);
  const int lane = emu::cur->lane, j = lane - int(d);
  return emu::from_lane(g, j & 31, j >= (lane & ~(w - 1)), v);
}
template <class T> unsigned __match_any_sync(unsigned m, T v, EMU_SITE) {
  const auto g = emu::collective(m, emu::pack(v), "__match_any_sync", EMU_AT);
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= unsigned(g.who >> i & 1 && g.v[i] == emu::pack(v)) << i;
  return r;
}
namespace emu {
template <class T, class F> T reduce(unsigned m, T v, F f, const char* file, int line) {
  const auto g = collective(m, pack(v), "__reduce_sync", file, line);
  T r{};
  bool first = true;
  for (int i = 0; i < 32; ++i)
    if (g.who >> i & 1) r = first ? (first = false, unpack<T>(g.v[i])) : f(r, unpack<T>(g.v[i]));
  return r;
}
}  // namespace emu
template <class T> T __reduce_add_sync(unsigned m, T v, EMU_SITE) { return emu::reduce(m, v, [](T a, T b) { return T(a + b); }, EMU_AT); }
template <class T> T __reduce_max_sync(unsigned m, T v, EMU_SITE) { return emu::reduce(m, v, [](T a, T b) { return std::max(a, b); }, EMU_AT); }
template <class T> T __reduce_min_sync(unsigned m, T v, EMU_SITE) { return emu::reduce(m, v, [](T a, T b) { return std::min(a, b); }, EMU_AT); }

// ---- atomics (blocks and fibers are serial, so plain read-modify-write)
template <class T> using emu_id = std::type_identity_t<T>;
template <class T> T atomicAdd(T* p, emu_id<T> v) { return emu::rmw(p, [&](T o) { return T(o + v); }); }
template <class T> T atomicSub(T* p, emu_id<T> v) { return emu::rmw(p, [&](T o) { return T(o - v); }); }
template <class T> T atomicMax(T* p, emu_id<T> v) { return emu::rmw(p, [&](T o) { return o < v ? v : o; }); }
template <class T> T atomicMin(T* p, emu_id<T> v) { return emu::rmw(p, [&](T o) { return v < o ? v : o; }); }
template <class T> T atomicExch(T* p, emu_id<T> v) { return emu::rmw(p, [&](T) { return v; }); }
template <class T> T atomicAnd(T* p, emu_id<T> v) { return emu::rmw(p, [&](T o) { return T(o & v); }); }
template <class T> T atomicOr(T* p, emu_id<T> v) { return emu::rmw(p, [&](T o) { return T(o | v); }); }
template <class T> T atomicCAS(T* p, emu_id<T> c, emu_id<T> v) { return emu::rmw(p, [&](T o) { return o == c ? v : o; }); }
inline unsigned atomicInc(unsigned* p, unsigned l) { return emu::rmw(p, [&](unsigned o) { return o >= l ? 0u : o + 1; }); }
template <> inline float2 atomicAdd(float2* p, float2 v) { return emu::rmw(p, [&](float2 o) { return make_float2(o.x + v.x, o.y + v.y); }); }
inline void __threadfence() { if (emu::on_fence) emu::on_fence(); }
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// ---- cached loads and stores
template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcg(const T* p) { return *p; }
template <class T> T __ldcs(const T* p) { return *p; }
template <class T> void __stcg(T* p, T v) { *p = v; }
template <class T> void __stcs(T* p, T v) { *p = v; }

// ---- arithmetic
template <class A, class B> constexpr std::common_type_t<A, B> min(A a, B b) { return b < a ? b : a; }
template <class A, class B> constexpr std::common_type_t<A, B> max(A a, B b) { return a < b ? b : a; }
inline float __expf(float x) { return std::exp(x); }
inline float __exp10f(float x) { return std::pow(10.f, x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __powf(float x, float y) { return std::pow(x, y); }
inline float __sinf(float x) { return std::sin(x); }
inline float __cosf(float x) { return std::cos(x); }
inline void __sincosf(float x, float* s, float* c) { *s = std::sin(x), *c = std::cos(x); }
inline void sincospif(float x, float* s, float* c) { *s = float(std::sin(M_PI * x)), *c = float(std::cos(M_PI * x)); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frsqrt_rn(float x) { return 1.f / std::sqrt(x); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __saturatef(float x) { return x < 0.f ? 0.f : x > 1.f ? 1.f : x; }
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t{a} * b >> 32); }
inline int __float_as_int(float x) { return emu::unpack<int>(emu::pack(x)); }
inline unsigned __float_as_uint(float x) { return emu::unpack<unsigned>(emu::pack(x)); }
inline float __int_as_float(int x) { return emu::unpack<float>(emu::pack(x)); }
inline float __uint_as_float(unsigned x) { return emu::unpack<float>(emu::pack(x)); }
inline long long clock64() { return __builtin_ia32_rdtsc(); }
inline void __nanosleep(unsigned) {}
[[noreturn]] inline void __trap() { emu::fail("__trap"); }
