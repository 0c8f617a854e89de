// SPDX-License-Identifier: Apache-2.0
// The scheduler of the emulation: fibers, barriers, warp collectives, shared memory.
#include "emu.h"

#include <sys/mman.h>
#include <pthread.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMU_ASAN 1
#endif
#endif
#ifndef EMU_ASAN
#define EMU_ASAN 0
#endif
#if EMU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
#define POISON(p, n) ((void)0)
#define UNPOISON(p, n) ((void)0)
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emu {
constinit thread_local Thread* cur = nullptr;
constinit thread_local Block blk{};
constinit thread_local Config config{};
void (*on_atomic)(void*, size_t) = nullptr;
void (*on_fence)() = nullptr;

void (*on_access)(const void*, size_t, bool) = nullptr;

struct Async {  // cp.async of one thread
  struct Copy { void* to; const void* from; size_t n; };
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};
struct Fiber {
  void* sp = nullptr;
  char* lo = nullptr;
  size_t size = 0;
  void* fake = nullptr;
#if !defined(__x86_64__)
  ucontext_t uc;
#endif
};

#if defined(__x86_64__)
// In line, so that no `ret` follows a switch: each would miss the CPU's return predictor.
[[gnu::always_inline]] inline void emu_swap(void** save, void* to) {
  asm volatile(
      "leaq -128(%%rsp), %%rsp\n\t"  // the red zone
      "pushq %%rbp\n\tpushq %%rbx\n\t"
      "leaq 1f(%%rip), %%rax\n\tpushq %%rax\n\t"
      "movq %%rsp, (%%rdi)\n\tmovq %%rsi, %%rsp\n\t"
      "popq %%rax\n\tjmpq *%%rax\n"
      "1:\n\tpopq %%rbx\n\tpopq %%rbp\n\tleaq 128(%%rsp), %%rsp"
      : "+D"(save), "+S"(to)::"rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4",
        "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}
#endif

namespace {
constexpr size_t kStack = EMU_ASAN ? 256 << 10 : 64 << 10, kArena = 512 << 10;
constexpr uint32_t kAll = ~0u;

struct Rdv {  // a warp collective being gathered, one for each mask in use
  uint32_t mask = 0, arrived = 0, phase = 0, who[2] = {};
  uint64_t val[2][32];
};
struct Warp {
  uint32_t ready, alive, bar;  // runnable lanes; lanes not returned; lanes at the block barrier
  uint32_t epoch;
  uint64_t wide[2][32][4];
  Rdv full;
  std::vector<std::unique_ptr<Rdv>> part;
};
struct Shared { const void* key; char* p; size_t size; };

struct Sched {
  Thread th[1024];
  Async async[1024];
  bool async_used = false;
  Warp warp[32];
  uint32_t nwarp = 0, wready = 0, done = 0, total = 0, curw = 0, launches = 0;
  uint64_t rng = 1;
  std::vector<Fiber*> idle;
  std::vector<std::unique_ptr<Fiber>> fibers;
  Fiber main;
  std::string error;
  void (*body)(void*) = nullptr;
  void* arg = nullptr;
  std::pair<const char*, size_t> args{}, call{};
  char *sarena = nullptr, *darena = nullptr;
  size_t sused = 0;
  std::vector<Shared> statics;
  const char* bar_file = nullptr;
  int bar_line = 0;
  bool configured = false;
};
thread_local std::unique_ptr<Sched> tls;
constinit thread_local Sched* S = nullptr;

uint32_t rnd(uint32_t n) {  // xorshift64*
  S->rng ^= S->rng >> 12, S->rng ^= S->rng << 25, S->rng ^= S->rng >> 27;
  return uint32_t((S->rng * 0x2545F4914F6CDD1Dull >> 32) * n >> 32);
}
uint32_t nth_bit(uint32_t m, uint32_t n) {
  while (n--) m &= m - 1;
  return uint32_t(__builtin_ctz(m));
}
void make_ready(uint32_t w, uint32_t lanes) {
  S->warp[w].ready |= lanes;
  if (S->warp[w].ready) S->wready |= 1u << w;
}
[[gnu::always_inline]] inline Thread* pick() {
  Sched& s = *S;
  if (!s.wready) return nullptr;
  uint32_t w = s.curw, l;
  if (config.order == Order::random) {
    w = nth_bit(s.wready, rnd(uint32_t(__builtin_popcount(s.wready))));
    l = nth_bit(s.warp[w].ready, rnd(uint32_t(__builtin_popcount(s.warp[w].ready))));
  } else if (config.order == Order::reverse) {
    if (!(s.wready >> w & 1)) w = 31 - uint32_t(__builtin_clz(s.wready));
    l = 31 - uint32_t(__builtin_clz(s.warp[w].ready));
  } else {
    if (!(s.wready >> w & 1)) w = uint32_t(__builtin_ctz(s.wready));
    l = uint32_t(__builtin_ctz(s.warp[w].ready));
  }
  s.curw = w;
  if (!(s.warp[w].ready &= ~(1u << l))) s.wready &= ~(1u << w);
  return &s.th[w * 32 + l];
}
[[gnu::always_inline]] inline void swap_to(Fiber* a, Fiber* b) {
#if EMU_ASAN
  __sanitizer_start_switch_fiber(&a->fake, b->lo, b->size);
#endif
#if defined(__x86_64__)
  emu_swap(&a->sp, b->sp);
#else
  swapcontext(&a->uc, &b->uc);
#endif
#if EMU_ASAN
  __sanitizer_finish_switch_fiber(a->fake, nullptr, nullptr);
#endif
}
void arrive_exit(Thread* t);

void fiber_main() {
#if EMU_ASAN
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  for (;;) {
    Thread* t = cur;
    Fiber* self = t->fiber;
    S->body(S->arg);
    t->done = true;
    t->fiber = nullptr;
    ++S->done;
    arrive_exit(t);
    Thread* n = pick();
    if (n && !n->fiber) {  // not started yet: run it on this stack, which is warm
      n->fiber = self;
      cur = n;
      continue;
    }
    S->idle.push_back(self);
    cur = n;
    swap_to(self, n ? n->fiber : &S->main);
  }
}
Fiber* new_fiber() {
  auto f = std::make_unique<Fiber>();
  char* m = static_cast<char*>(mmap(nullptr, kStack + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (m == MAP_FAILED) throw std::bad_alloc();
  mprotect(m, 4096, PROT_NONE);
  f->lo = m + 4096;
  f->size = kStack;
#if defined(__x86_64__)
  // Different cache sets for the hot ends of the stacks, or 256 fibers fight over 8 ways of L1.
  char* top = f->lo + kStack - 64 - (S->fibers.size() * 704 % 8192) / 64 * 64;
  void** sp = reinterpret_cast<void**>(top);
  *--sp = nullptr;
  *--sp = reinterpret_cast<void*>(&fiber_main);
  f->sp = sp;
#else
  getcontext(&f->uc);
  f->uc.uc_stack = {f->lo, 0, kStack};
  makecontext(&f->uc, fiber_main, 0);
#endif
  S->fibers.push_back(std::move(f));
  return S->fibers.back().get();
}
Fiber* start(Thread* n) {
  if (S->idle.empty()) return n->fiber = new_fiber();
  n->fiber = S->idle.back();
  S->idle.pop_back();
  return n->fiber;
}
[[noreturn]] void give_up() {  // back to run(), which throws S->error
  Fiber* self = cur->fiber;
  cur = nullptr;
  swap_to(self, &S->main);
  __builtin_unreachable();
}
std::string who_waits() {
  std::string r;
  for (uint32_t i = 0; i < S->total;) {
    auto key = [&](uint32_t j) { const Thread& t = S->th[j]; return t.done ? std::string("returned") : t.what ? std::string(t.what) + " at " + t.file + ":" + std::to_string(t.line) : std::string("running"); };
    uint32_t j = i;
    const std::string k = key(i);
    while (j < S->total && key(j) == k) ++j;
    if (r.size() < 1500) r += "\n  threads " + std::to_string(i) + ".." + std::to_string(j - 1) + ": " + k;
    i = j;
  }
  return r;
}
[[gnu::always_inline]] inline void wait_here(const char* what, const char* file, int line) {
  Thread* t = cur;
  t->what = what, t->file = file, t->line = line;
  Thread* n = pick();
  if (!n) {
    S->error = "deadlock in block " + std::to_string(blk.lin) + ":" + who_waits();
    give_up();
  }
  cur = n;
  if (n != t) swap_to(t->fiber, n->fiber ? n->fiber : start(n));
  t->what = nullptr;
}
void yield_ready(const char* what, const char* file, int line) {  // random order: the last to arrive need not go first
  make_ready(cur->warp, 1u << cur->lane);
  wait_here(what, file, line);
}
void complete(Warp& w, Rdv& r) {
  r.who[r.phase & 1] = r.arrived;
  ++r.phase;
  (void)w;
}
void release_block() {
  for (uint32_t w = 0; w < S->nwarp; ++w) {
    make_ready(w, S->warp[w].bar);
    S->warp[w].bar = 0;
    ++S->warp[w].epoch;
  }
  blk.arrived = 0;
  ++blk.epoch;
  blk.acc[blk.epoch & 1] = 0;
}
void arrive_exit(Thread* t) {
  Warp& w = S->warp[t->warp];
  w.alive &= ~(1u << t->lane);
  --blk.alive;
  if (blk.alive && blk.arrived == blk.alive) release_block();
  auto look = [&](Rdv& r) {
    if (r.arrived && r.arrived == (r.mask & w.alive)) {
      make_ready(t->warp, r.arrived);
      complete(w, r);
      r.arrived = 0;
    }
  };
  look(w.full);
  for (auto& r : w.part) look(*r);
}
}  // namespace

Got collective(uint32_t mask, uint64_t v, const char* what, const char* file, int line) {
  Thread* t = cur;
  Warp& w = S->warp[t->warp];
  Rdv* r = &w.full;
  if (mask != kAll) {
    r = nullptr;
    for (auto& p : w.part) if (p->mask == mask) r = p.get();
    if (!r) w.part.push_back(std::make_unique<Rdv>()), r = w.part.back().get(), r->mask = mask;
  }
  if (!(mask >> t->lane & 1)) fail("%s at %s:%d: the calling lane is not in the mask %08x", what, file, line, mask);
  const uint32_t ph = r->phase;
  r->val[ph & 1][t->lane] = v;
  if (config.strict && r->arrived) {  // every lane named by the mask must be at the same place
    const Thread& o = S->th[t->warp * 32u + uint32_t(__builtin_ctz(r->arrived))];
    if (o.line != line || o.file != file) fail("lanes %d and %d meet in %s and %s at %s:%d and %s:%d", o.lane, t->lane, o.what, what, o.file, o.line, file, line);
  }
  r->arrived |= 1u << t->lane;
  if (r->arrived == (mask & w.alive)) {
    complete(w, *r);
    make_ready(t->warp, r->arrived & ~(1u << t->lane));
    r->arrived = 0;
    if (config.order == Order::random) yield_ready(what, file, line);
  } else {
    wait_here(what, file, line);
  }
  return {r->val[ph & 1], r->who[ph & 1]};
}
void sync_warp(uint32_t mask, const char* file, int line) {
  Warp& w = S->warp[cur->warp];
  const uint32_t e = w.epoch;
  collective(mask, 0, "__syncwarp", file, line);
  if (w.epoch == e) ++w.epoch;
}
int sync_block(int v, const char* what, const char* file, int line) {
  const uint32_t e = blk.epoch;
  Thread* t = cur;
  if (blk.arrived == 0) S->bar_file = file, S->bar_line = line;
  else if (config.strict && (S->bar_line != line || S->bar_file != file))
    fail("thread %d is at %s %s:%d while others of the block are at %s:%d", t->lin, what, file, line, S->bar_file, S->bar_line);
  blk.acc[e & 1] += v;
  if (++blk.arrived == blk.alive) {
    release_block();
    if (config.order == Order::random) yield_ready(what, file, line);
  } else {
    S->warp[t->warp].bar |= 1u << t->lane;
    wait_here(what, file, line);
  }
  return blk.acc[e & 1];
}
uint64_t* wide(bool after) {
  Warp& w = S->warp[cur->warp];
  return &w.wide[(w.full.phase - after) & 1][0][0];
}
int classify(const void* q, size_t n) {  // for emu_check.cpp
  const char* p = static_cast<const char*>(q);
  const Fiber* f = cur->fiber;
  if (p >= f->lo && p < f->lo + f->size) return 2;
  if (p >= S->darena && p < S->darena + kArena) return p + n <= S->darena + blk.dyn_bytes ? 1 : -1;
  if (p >= S->sarena && p < S->sarena + kArena) {
    for (const auto& x : S->statics) if (p >= x.p && p + n <= x.p + x.size) return 1;
    return -1;
  }
  using R = std::pair<const char*, size_t>;
  for (const auto& [a, sz] : {S->args, S->call, R(reinterpret_cast<char*>(&blk), sizeof blk), R(reinterpret_cast<char*>(&cur), sizeof cur), R(reinterpret_cast<char*>(S), sizeof *S)})
    if (p >= a && p < a + sz) return 3;
  for (const auto& x : S->fibers) if (p >= x->lo && p < x->lo + x->size) return -2;
  return 0;
}
void yield_now() {
  if (S->wready) yield_ready("running", "", 0);
}
void peek(void* to, const void* from, size_t n) { std::memcpy(to, from, n); }
uint32_t warp_epoch() { return S->warp[cur->warp].epoch; }

void async_copy(void* to, const void* from, size_t n) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % n) fail("cp.async: an address is not %zu-byte aligned", n);
  if (on_access) on_access(from, n, false), on_access(to, n, true);
  std::memset(to, 0xff, n);
  cur->async->open.push_back({to, from, n});
  S->async_used = true;
}
void async_commit() { cur->async->groups.push_back(std::move(cur->async->open)), cur->async->open.clear(); }
void async_wait(size_t left) {
  auto& q = cur->async->groups;
  for (; q.size() > left; q.pop_front())
    for (const auto& c : q.front()) {
      if (on_access) on_access(c.to, c.n, true);
      std::memcpy(c.to, c.from, c.n);
    }
}
void* static_shared(const void* key, size_t size, size_t align) {
  for (auto& x : S->statics) if (x.key == key) return x.p;
  const size_t at = (S->sused + (S->statics.empty() ? 0 : 64) + align - 1) / align * align;  // 64 bytes of redzone
  if (at + size > (48u << 10) + 64 * (S->statics.size() + 1)) fail("more than 48 KiB of static shared memory");
  S->statics.push_back({key, S->sarena + at, size});
  S->sused = at + size;
  UNPOISON(S->sarena + at, size);
  std::memset(S->sarena + at, 0xff, size);
  return S->sarena + at;
}
void fail(const char* fmt, ...) {
  char buf[1024];
  va_list ap;
  va_start(ap, fmt);
  std::vsnprintf(buf, sizeof buf, fmt, ap);
  va_end(ap);
  if (!cur) throw Error(buf);
  S->error = "block " + std::to_string(blk.lin) + " thread " + std::to_string(cur->lin) + ": " + buf;
  give_up();
}
void configure(const char* o) {
  const std::string s = o ? o : "forward";
  config = {s == "forward" ? Order::forward : s == "reverse" ? Order::reverse : Order::random, 1, true};
  if (config.order == Order::random) config.seed = std::strtoull(o, nullptr, 10) * 2 + 1;
}

void run(dim3 grid, dim3 block, size_t smem, void (*body)(void*), void* arg, size_t call_bytes, const void* args, size_t args_bytes) {
  if (!tls) {
    tls = std::make_unique<Sched>();
    S = tls.get();
    auto map = [](size_t n) { return static_cast<char*>(mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)); };
    S->sarena = map(kArena), S->darena = map(kArena);
    if (!config.seed) configure(std::getenv("EMU_ORDER"));
    S->rng = config.seed * 0x9E3779B97F4A7C15ull | 1;
    pthread_attr_t a;
    void* lo;
    pthread_getattr_np(pthread_self(), &a);
    pthread_attr_getstack(&a, &lo, &S->main.size);
    pthread_attr_destroy(&a);
    S->main.lo = static_cast<char*>(lo);
  }
  if (cur) throw Error("a kernel launched from a kernel");
  Sched& s = *S;
  s.body = body, s.arg = arg;
  s.args = {static_cast<const char*>(args), args_bytes}, s.call = {static_cast<const char*>(arg), call_bytes};
  s.total = block.x * block.y * block.z;
  s.nwarp = (s.total + 31) / 32;
  s.statics.clear();
  s.sused = 0;
  POISON(s.sarena, kArena);
  POISON(s.darena, kArena);
  blk.bdim = block, blk.gdim = grid;
  blk.dyn = s.darena, blk.dyn_bytes = uint32_t(smem);
  blk.launch = ++s.launches;
  UNPOISON(s.darena, smem);
  for (uint32_t i = 0; i < s.total; ++i)
    s.th[i] = {nullptr, {i % block.x, i / block.x % block.y, i / (block.x * block.y)}, uint16_t(i), uint8_t(i % 32), uint8_t(i / 32), false, 0, nullptr, nullptr, &s.async[i]};
  const uint64_t nb = uint64_t(grid.x) * grid.y * grid.z;
  uint64_t step = 1, off = 0;  // random order: a random affine walk over the blocks
  if (config.order == Order::random) {
    off = rnd(uint32_t(nb)), step = 1 + rnd(uint32_t(nb));
    while (std::gcd(step, nb) != 1) ++step;
  }
  for (uint64_t k = 0; k < nb; ++k) {
    const uint64_t b = config.order == Order::reverse ? nb - 1 - k : (k * step + off) % nb;
    blk.lin = b;
    blk.bid = {uint32_t(b % grid.x), uint32_t(b / grid.x % grid.y), uint32_t(b / (uint64_t(grid.x) * grid.y))};
    blk.alive = s.total, blk.arrived = 0, blk.epoch = 0, blk.acc[0] = blk.acc[1] = 0;
    if (smem) std::memset(s.darena, 0xff, smem);
    for (auto& x : s.statics) std::memset(x.p, 0xff, x.size);
    s.done = 0, s.wready = 0;
    for (uint32_t w = 0; w < s.nwarp; ++w) {
      Warp& x = s.warp[w];
      x.ready = x.alive = s.total - w * 32 >= 32 ? kAll : (1u << (s.total - w * 32)) - 1;
      x.bar = x.epoch = 0;
      x.full.mask = kAll, x.full.arrived = x.full.phase = 0;
      x.part.clear();
      s.wready |= 1u << w;
    }
    for (uint32_t i = 0; i < s.total; ++i) s.th[i].done = false, s.th[i].what = nullptr, s.th[i].fiber = nullptr;
    if (s.async_used) for (Async& x : s.async) x = {};
    s.async_used = false;
    s.error.clear();
    s.curw = 0;
    Thread* n = pick();
    Fiber* f = start(n);
    cur = n;
    swap_to(&s.main, f);
    cur = nullptr;
    if (s.error.empty() && s.done != s.total) s.error = "deadlock in block " + std::to_string(b) + ":" + who_waits();
    if (!s.error.empty()) {  // the suspended fibers are dropped, with whatever they hold
      for (auto& x : s.fibers) munmap(x->lo - 4096, kStack + 4096);
      s.fibers.clear();
      s.idle.clear();
      throw Error(s.error);
    }
  }
  UNPOISON(s.sarena, kArena);
  UNPOISON(s.darena, kArena);
}
}  // namespace emu
