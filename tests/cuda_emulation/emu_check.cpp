// SPDX-License-Identifier: Apache-2.0
// memcheck + racecheck for emulated kernels.  The .cu files are compiled with -fsanitize=thread, which makes
// the compiler call __tsan_readN/__tsan_writeN for every access that may be shared; the program is linked
// WITHOUT libtsan, and these are the functions.  Every access of a kernel is checked against the live
// allocations, the shared memory of the block and the fiber's own stack, and against a shadow that holds the
// last write and two last reads of every byte with their barrier epochs.
//   EMU_PREEMPT = n: besides, about every n-th access lets another thread of the block run.
#include "emu.h"
#include "emu_rt.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>

namespace emu {
// in emu.cpp: 0 unknown, 1 shared memory of the block, 2 own stack, 3 kernel arguments, -1 the shared arena but
// outside what was allocated, -2 another thread's stack
int classify(const void* p, size_t n);
void yield_now();
}  // namespace emu
extern "C" char __executable_start, _end;

namespace {
struct Acc {
  uint32_t launch = 0, block = 0, epoch = 0, wepoch = 0, pc = 0;
  uint16_t thread = 0;
  uint8_t atomic = 0, size = 0;
};
struct Cell { Acc w, r, r2; };
struct Page { Cell c[4096]; };
thread_local std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
thread_local uintptr_t last_no = 0;
thread_local Page* last_page = nullptr;
thread_local uint32_t fence_launch = 0;
thread_local uint64_t fence_block = 0;
thread_local std::unordered_map<const void*, std::unordered_set<uint32_t>> released;  // atomics after a fence
thread_local std::unordered_set<uint32_t> acquired;
thread_local uint32_t seen_launch = 0;
thread_local uint64_t seen_block = ~0ull;
int preempt = -1;

Cell& cell(uintptr_t a) {
  if ((a >> 12) != last_no || !last_page) {
    auto& p = pages[a >> 12];
    if (!p) p = std::make_unique<Page>();
    last_no = a >> 12;
    last_page = p.get();
  }
  return last_page->c[a & 4095];
}
std::string where(uint32_t pc) {
  char cmd[512], line[400] = "?";
  Dl_info i;
  if (!dladdr(&__executable_start + pc, &i)) return "?";
  std::snprintf(cmd, sizeof cmd, "addr2line -Cspe /proc/%d/exe 0x%x 2>/dev/null", int(getpid()), pc - 1);
  if (FILE* f = popen(cmd, "r")) {
    if (std::fgets(line, sizeof line, f)) line[strcspn(line, "\n")] = 0;
    pclose(f);
  }
  return line;
}
bool conflict(const Acc& a, const Acc& c, bool shared) {
  if (!a.launch || a.launch != c.launch || (a.atomic && c.atomic)) return false;
  if (a.block != c.block) return !shared && !acquired.contains(a.block);
  if (a.thread == c.thread || a.epoch != c.epoch) return false;
  return a.thread / 32 != c.thread / 32 || a.wepoch == c.wepoch;
}
void race(const Acc& a, const Acc& c, bool aw, bool cw, const void* p, bool shared) {
  emu::fail("race on %s memory at %p: %s of %u bytes by block %u thread %u (%s) and %s of %u bytes by block %u thread %u (%s), no barrier between", shared ? "shared" : "global", p,
            aw ? "write" : "read", a.size, a.block, a.thread, where(a.pc).c_str(), cw ? "write" : "read", c.size, c.block, c.thread, where(c.pc).c_str());
}
void access(const void* p, size_t n, bool write, bool atomic, const void* ret, bool aligned = false) {
  using namespace emu;
  if (!cur) {
    return;
  }
  size_t left = 0;
  if (aligned && reinterpret_cast<uintptr_t>(p) % n) fail("misaligned access of %zu bytes at %p", n, p);
  const uint32_t pc = uint32_t(static_cast<const char*>(ret) - &__executable_start);
  const bool dev = is_device(p, &left);
  bool shared = false;
  if (dev) {
    if (n > left) fail("%s of %zu bytes at %p runs %zu bytes past the end of its allocation (%s)", write ? "write" : "read", n, p, n - left, where(pc).c_str());
  } else {
    switch (classify(p, n)) {
      case 1: shared = true; break;
      case 2: case 3: return;
      case -1: fail("%s of %zu bytes at %p: outside the block's shared memory (%s)", write ? "write" : "read", n, p, where(pc).c_str());
      case -2: fail("%s at %p: another thread's local variable (%s)", write ? "write" : "read", p, where(pc).c_str());
      default:
        if (p >= static_cast<void*>(&__executable_start) && p < static_cast<void*>(&_end)) return;  // constants, __device__ variables
        fail("%s of %zu bytes at %p: not device memory (%s)", write ? "write" : "read", n, p, where(pc).c_str());
    }
  }
  if (seen_launch != blk.launch) seen_launch = blk.launch, seen_block = ~0ull, released.clear();
  if (seen_block != blk.lin) seen_block = blk.lin, acquired.clear();
  Acc c;
  c.launch = blk.launch, c.block = uint32_t(blk.lin), c.epoch = blk.epoch, c.wepoch = warp_epoch(), c.pc = pc;
  c.thread = cur->lin, c.atomic = atomic, c.size = uint8_t(n);
  for (size_t i = 0; i < n; ++i) {
    Cell& x = cell(reinterpret_cast<uintptr_t>(p) + i);
    if (conflict(x.w, c, shared)) race(x.w, c, true, write, p, shared);
    if (write) {
      if (conflict(x.r, c, shared)) race(x.r, c, false, true, p, shared);
      if (conflict(x.r2, c, shared)) race(x.r2, c, false, true, p, shared);
      x.w = c;
    } else if (x.r.launch != c.launch || x.r.block != c.block || x.r.thread != c.thread || x.r.epoch != c.epoch || x.r.wepoch != c.wepoch) {
      // keep two readers, of different warps if there are such
      if (x.r.launch == c.launch && (x.r2.launch != c.launch || x.r.block != c.block || x.r.epoch != c.epoch || x.r.thread / 32 != c.thread / 32)) x.r2 = x.r;
      x.r = c;
    }
  }
  if (preempt < 0) preempt = std::getenv("EMU_PREEMPT") ? std::atoi(std::getenv("EMU_PREEMPT")) : 0;
  if (preempt > 0 && !atomic) {
    static thread_local uint32_t n_ = 12345;
    n_ = n_ * 1664525u + 1013904223u;
    if ((n_ >> 8) % unsigned(preempt) == 0) yield_now();
  }
}
void atomic_access(void* p, size_t n) {
  access(p, n, true, true, __builtin_return_address(0));
  if (!emu::cur) return;
  if (auto it = released.find(p); it != released.end()) acquired.insert(it->second.begin(), it->second.end());
  if (fence_launch == emu::blk.launch && fence_block == emu::blk.lin) released[p].insert(uint32_t(emu::blk.lin));
}
void fence() { fence_launch = emu::blk.launch, fence_block = emu::blk.lin; }
struct Install { Install() { emu::on_atomic = atomic_access, emu::on_access = [](const void* p, size_t n, bool w) { access(p, n, w, false, __builtin_return_address(0)); }, emu::on_fence = fence; } } install;
}  // namespace

#define RW(n)                                                                                               \
  void __tsan_read##n(void* p) { access(p, n, false, false, __builtin_return_address(0), true); }                  \
  void __tsan_write##n(void* p) { access(p, n, true, false, __builtin_return_address(0), true); }                  \
  void __tsan_unaligned_read##n(void* p) { access(p, n, false, false, __builtin_return_address(0)); }        \
  void __tsan_unaligned_write##n(void* p) { access(p, n, true, false, __builtin_return_address(0)); }        \
  void __tsan_volatile_read##n(void* p) { access(p, n, false, false, __builtin_return_address(0)); }         \
  void __tsan_volatile_write##n(void* p) { access(p, n, true, false, __builtin_return_address(0)); }
#define ATOM(b, T)                                                                                          \
  T __tsan_atomic##b##_load(const volatile T* p, int) { return *p; }                                         \
  void __tsan_atomic##b##_store(volatile T* p, T v, int) { *p = v; }                                         \
  T __tsan_atomic##b##_exchange(volatile T* p, T v, int) { return __atomic_exchange_n(p, v, 5); }            \
  T __tsan_atomic##b##_fetch_add(volatile T* p, T v, int) { return __atomic_fetch_add(p, v, 5); }            \
  T __tsan_atomic##b##_fetch_sub(volatile T* p, T v, int) { return __atomic_fetch_sub(p, v, 5); }            \
  int __tsan_atomic##b##_compare_exchange_strong(volatile T* p, T* c, T v, int, int) { return __atomic_compare_exchange_n(p, c, v, false, 5, 5); } \
  int __tsan_atomic##b##_compare_exchange_weak(volatile T* p, T* c, T v, int, int) { return __atomic_compare_exchange_n(p, c, v, false, 5, 5); }
extern "C" {
RW(1) RW(2) RW(4) RW(8) RW(16)
ATOM(8, uint8_t) ATOM(16, uint16_t) ATOM(32, uint32_t) ATOM(64, uint64_t)
void __tsan_read_range(void* p, size_t n) { access(p, n, false, false, __builtin_return_address(0)); }
void __tsan_write_range(void* p, size_t n) { access(p, n, true, false, __builtin_return_address(0)); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_atomic_thread_fence(int) {}
void* __tsan_memcpy(void* d, const void* s, size_t n) { access(s, n, false, false, __builtin_return_address(0)); access(d, n, true, false, __builtin_return_address(0)); return std::memcpy(d, s, n); }
void* __tsan_memset(void* d, int v, size_t n) { access(d, n, true, false, __builtin_return_address(0)); return std::memset(d, v, n); }
void* __tsan_memmove(void* d, const void* s, size_t n) { access(s, n, false, false, __builtin_return_address(0)); access(d, n, true, false, __builtin_return_address(0)); return std::memmove(d, s, n); }
}
