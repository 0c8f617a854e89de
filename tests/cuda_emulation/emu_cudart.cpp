// SPDX-License-Identifier: Apache-2.0
// Link-time substitute of the parts of the CUDA runtime that the framework uses.  Device memory is a
// reserved range of host memory; streams are queues of closures.
//   EMU_STREAMS = eager (default) | lazy | <seed> | threads: when ops run.  threads: a thread per stream, truly
//     asynchronous (what several MPI ranks need to wait for one another as on GPUs).  lazy/<seed>: only when something waits,
//     in issue order per stream, the streams interleaved at random: a forgotten wait shows.
//   EMU_PROTECT = 1: device memory is PROT_NONE except while an op runs: host code touching it crashes.
//   EMU_MEMORY  = bytes of device memory (default 4 GiB).   EMU_DEVICES = device count (default 1).
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "emu_rt.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
#define POISON(p, n) ((void)0)
#define UNPOISON(p, n) ((void)0)
#endif

namespace {
using Clock = std::chrono::steady_clock;
struct Mark { bool done = false; Clock::time_point at; };  // one recording of an event
using MarkP = std::shared_ptr<Mark>;
struct Op {
  std::function<void()> fn;
  const char* what;
  uint64_t seq;
  bool ordered;
  MarkP wait;    // before running
  MarkP record;  // after running
};
}  // namespace
struct CUgraph_st { std::vector<Op> ops; };
struct CUgraphExec_st { std::vector<Op> ops; };
struct CUstream_st {
  std::deque<Op> q;
  bool blocking = true;
  CUgraph_st* capture = nullptr;
  CUstream_st* capture_origin = nullptr;
  bool busy = false, stop = false;  // threads mode
  std::thread th;
};
struct CUevent_st { MarkP mark; CUstream_st* captured_on = nullptr; };

namespace {
constexpr size_t kRange = 64ull << 30, kGap = 512;
struct Lock {  // recursive, and can be let go of altogether in a wait
  std::mutex mu;
  std::condition_variable cv;
  static thread_local int depth;
  void lock() { if (depth++ == 0) mu.lock(); }
  void unlock() { if (--depth == 0) mu.unlock(); }
  template <class F> bool wait(F f) {
    const int d = std::exchange(depth, 0);
    std::unique_lock<std::mutex> l(mu, std::adopt_lock);
    const bool ok = cv.wait_for(l, std::chrono::seconds(120), f);
    l.release();
    depth = d;
    return ok;
  }
};
thread_local int Lock::depth = 0;
struct Rt {
  Lock mu;
  CUstream_st null;
  std::vector<CUstream_st*> streams{&null};
  uint64_t seq = 0, rng = 88172645463325252ull;
  bool lazy = false, shuffle = false, threads = false, protect = false, running = false;
  char* base = nullptr;
  size_t top = 0, used = 0, limit = 4ull << 30, opened = 0;
  std::map<size_t, size_t> live, freed;  // offset -> bytes
  std::map<const char*, size_t> pinned;
  std::map<const void*, int> smem;
  cudaError_t sticky = cudaSuccess, last = cudaSuccess;
  std::string why;
  int device = 0, devices = 1;
  Rt() {
    auto env = [](const char* n) { const char* v = std::getenv(n); return std::string(v ? v : ""); };
    const auto st = env("EMU_STREAMS");
    lazy = !st.empty() && st != "eager";
    threads = st == "threads";
    if (lazy && !threads && st != "lazy") shuffle = true, rng ^= std::strtoull(st.c_str(), nullptr, 10) * 0x9E3779B97F4A7C15ull;
    protect = env("EMU_PROTECT") == "1";
    if (auto v = env("EMU_MEMORY"); !v.empty()) limit = std::strtoull(v.c_str(), nullptr, 10);
    if (auto v = env("EMU_DEVICES"); !v.empty()) devices = std::atoi(v.c_str());
    void* m = mmap(reinterpret_cast<void*>(0x7d0000000000), kRange, protect ? PROT_NONE : PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED) std::abort();
    base = static_cast<char*>(m);
  }
  cudaError_t set(cudaError_t e) {
    if (e) last = e;
    return e;
  }
};
Rt& rt() {
  static Rt* r = new Rt;  // never destroyed: statics of the program may still free device memory
  return *r;
}
#define LOCK std::lock_guard<Lock> lock_(rt().mu)
CUstream_st* stream(cudaStream_t s) { return !s || s == cudaStreamLegacy || s == cudaStreamPerThread ? &rt().null : s; }

bool idle(CUstream_st* s) { return s->q.empty() && !s->busy; }
bool runnable(CUstream_st* s) {
  const Op& o = s->q.front();
  if (o.wait && !o.wait->done) return false;
  for (auto* t : rt().streams) {
    if (t == s || idle(t) || (!t->busy && t->q.front().seq > o.seq)) continue;
    if ((s == &rt().null && t->blocking) || (t == &rt().null && s->blocking)) return false;  // the legacy default stream
  }
  if (o.ordered && !rt().threads)
    for (auto* t : rt().streams)
      for (const Op& x : t->q) if (x.ordered && x.seq < o.seq) return false;
  return true;
}
void exec(Op& o) {
  if (o.fn && !rt().sticky) {
    try {
      emu::DeviceAccess a;
      o.fn();
    } catch (const std::exception& e) {  // as on a GPU: the context is broken from here on
      rt().sticky = cudaErrorLaunchFailure;
      rt().why = std::string(o.what) + ": " + e.what();
      std::fprintf(stderr, "emu: %s\n", rt().why.c_str());
    }
  }
}
bool step() {  // one op of some stream
  Rt& r = rt();
  std::vector<CUstream_st*> c;
  for (auto* s : r.streams) if (!s->q.empty() && runnable(s)) c.push_back(s);
  if (c.empty()) return false;
  CUstream_st* s = nullptr;
  if (r.shuffle) {
    r.rng ^= r.rng << 13, r.rng ^= r.rng >> 7, r.rng ^= r.rng << 17;
    s = c[r.rng % c.size()];
  } else {
    s = *std::min_element(c.begin(), c.end(), [](auto* a, auto* b) { return a->q.front().seq < b->q.front().seq; });
  }
  Op o = std::move(s->q.front());
  s->q.pop_front();
  exec(o);
  if (o.record) o.record->done = true, o.record->at = Clock::now();
  return true;
}
void stream_thread(CUstream_st* s) {
  Rt& r = rt();
  std::lock_guard<Lock> l(r.mu);
  for (;;) {
    while (!r.mu.wait([&] { return s->stop || (!s->q.empty() && runnable(s)); })) {}
    if (s->stop) return;
    Op o = std::move(s->q.front());
    s->q.pop_front();
    s->busy = true;
    r.mu.unlock();
    exec(o);
    r.mu.lock();
    if (o.record) o.record->done = true, o.record->at = Clock::now();
    s->busy = false;
    r.mu.cv.notify_all();
  }
}
template <class F> cudaError_t run_until(F done) {
  if (rt().threads) {
    if (!rt().mu.wait(done)) { std::fprintf(stderr, "emu: two minutes without progress\n"); std::abort(); }
    return rt().set(rt().sticky);
  }
  while (!done())
    if (!step()) { std::fprintf(stderr, "emu: streams wait for one another\n"); return rt().set(cudaErrorUnknown); }
  return rt().set(rt().sticky);
}
cudaError_t run_all() {
  return run_until([] { return std::all_of(rt().streams.begin(), rt().streams.end(), [](auto* s) { return idle(s); }); });
}
cudaError_t put(CUstream_st* s, Op o) {
  Rt& r = rt();
  if (r.sticky) return r.set(r.sticky);
  o.seq = ++r.seq;
  if (s->capture) { s->capture->ops.push_back(std::move(o)); return cudaSuccess; }
  s->q.push_back(std::move(o));
  if (r.threads) {
    if (!s->th.joinable()) s->th = std::thread(stream_thread, s);
    r.mu.cv.notify_all();
  } else if (!r.lazy) {
    run_all();
  }
  return cudaSuccess;  // like a GPU, an error of the op itself is reported later
}
bool host_pinned(const void* p) {
  auto it = rt().pinned.upper_bound(static_cast<const char*>(p));
  return it != rt().pinned.begin() && (--it, static_cast<const char*>(p) < it->first + it->second);
}
bool check_range(const void* p, size_t n) {  // device pointers must lie in one allocation
  size_t left = 0;
  const bool in = static_cast<const char*>(p) >= rt().base && static_cast<const char*>(p) < rt().base + kRange;
  return !in || n == 0 || (emu::is_device(p, &left) && n <= left);
}
}  // namespace

namespace emu {
DeviceAccess::DeviceAccess() {
  LOCK;
  if (rt().protect && rt().opened++ == 0) mprotect(rt().base, (rt().top + 4095) & ~4095ull, PROT_READ | PROT_WRITE);
}
DeviceAccess::~DeviceAccess() {
  LOCK;
  if (rt().protect && --rt().opened == 0) mprotect(rt().base, (rt().top + 4095) & ~4095ull, PROT_NONE);
}
bool is_device(const void* p, size_t* left) {
  const Rt& r = rt();
  const auto off = static_cast<const char*>(p) - r.base;
  if (off < 0 || size_t(off) >= r.top) return false;
  auto it = r.live.upper_bound(size_t(off));
  if (it == r.live.begin()) return false;
  --it;
  if (size_t(off) >= it->first + it->second) return false;
  if (left) *left = it->first + it->second - size_t(off);
  return true;
}
cudaError_t enqueue_op(cudaStream_t s, std::function<void()> op, const char* what, bool ordered) {
  LOCK;
  return put(stream(s), {std::move(op), what, 0, ordered, nullptr, nullptr});
}
cudaError_t enqueue(cudaStream_t s, std::function<void()> op, const char* what) { return enqueue_op(s, std::move(op), what, false); }
cudaError_t check_launch(const void* kernel, dim3 g, dim3 b, size_t smem) {
  LOCK;
  auto it = rt().smem.find(kernel);
  const size_t lim = it == rt().smem.end() ? 48 << 10 : size_t(it->second);
  const bool ok = g.x && g.y && g.z && b.x && b.y && b.z && g.x < 1u << 31 && g.y < 65536 && g.z < 65536 && b.x * b.y * b.z <= 1024 && b.z <= 64 && smem <= lim;
  return rt().set(ok ? cudaSuccess : cudaErrorInvalidConfiguration);
}
}  // namespace emu

extern "C" {
cudaError_t cudaGetDeviceCount(int* n) { return *n = rt().devices, rt().devices ? cudaSuccess : rt().set(cudaErrorNoDevice); }
cudaError_t cudaSetDevice(int d) { return d < 0 || d >= rt().devices ? rt().set(cudaErrorInvalidDevice) : (rt().device = d, cudaSuccess); }
cudaError_t cudaGetDevice(int* d) { return *d = rt().device, cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  std::memset(p, 0, sizeof *p);
  std::strcpy(p->name, "CPU emulation");
  p->major = 9, p->minor = 0, p->multiProcessorCount = 4, p->warpSize = 32, p->maxThreadsPerBlock = 1024;
  p->sharedMemPerBlock = 48 << 10, p->sharedMemPerBlockOptin = 227 << 10, p->totalGlobalMem = rt().limit, p->l2CacheSize = 50 << 20;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* v, cudaDeviceAttr a, int) {
  *v = a == cudaDevAttrMultiProcessorCount ? 4 : a == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 227 << 10 : a == cudaDevAttrComputeCapabilityMajor ? 9 : 0;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* v) { return *v = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* v) { return *v = CUDART_VERSION, cudaSuccess; }
const char* cudaGetErrorName(cudaError_t e) { return e == cudaSuccess ? "cudaSuccess" : e == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaError"; }
const char* cudaGetErrorString(cudaError_t e) { return e == rt().sticky && e ? rt().why.c_str() : cudaGetErrorName(e); }
cudaError_t cudaGetLastError() { auto e = rt().last; rt().last = rt().sticky; return e; }
cudaError_t cudaPeekAtLastError() { return rt().last; }
cudaError_t cudaDeviceSynchronize() { LOCK; return run_all(); }

// ---- memory
cudaError_t cudaMalloc(void** p, size_t n) {
  LOCK;
  Rt& r = rt();
  if (n == 0) return *p = nullptr, cudaSuccess;
  if (r.used + n > r.limit) return *p = nullptr, r.set(cudaErrorMemoryAllocation);
  const size_t need = (n + 511) / 512 * 512 + kGap;
  size_t off = r.top;
  for (auto& [o, sz] : r.freed)
    if (sz >= need) {
      off = o;
      const size_t rest = sz - need;
      r.freed.erase(o);
      if (rest) r.freed[off + need] = rest;
      break;
    }
  if (off == r.top) {
    r.top += need;
    POISON(r.base + off, need + (1 << 20));  // not the whole range: its ASan shadow would take 8 GiB
  }
  if (r.top > kRange) return r.set(cudaErrorMemoryAllocation);
  r.live[off] = n;
  r.used += n;
  *p = r.base + off;
  UNPOISON(*p, n);
  emu::DeviceAccess a;
  std::memset(*p, 0xff, n);  // NaN: fresh memory is not zero
  return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
  LOCK;
  Rt& r = rt();
  if (!p) return cudaSuccess;
  run_all();
  auto it = r.live.find(size_t(static_cast<char*>(p) - r.base));
  if (it == r.live.end()) return r.set(cudaErrorInvalidValue);
  { emu::DeviceAccess a; std::memset(p, 0xff, it->second); }
  POISON(p, it->second);
  r.used -= it->second;
  r.freed[it->first] = (it->second + 511) / 512 * 512 + kGap;
  r.live.erase(it);
  return cudaSuccess;
}
cudaError_t cudaMallocAsync(void** p, size_t n, cudaStream_t) { return cudaMalloc(p, n); }
cudaError_t cudaFreeAsync(void* p, cudaStream_t s) {  // freed in stream order: a later use on another stream shows
  return emu::enqueue_op(s, [p] {
    LOCK;
    Rt& r = rt();
    auto it = r.live.find(size_t(static_cast<char*>(p) - r.base));
    if (it == r.live.end()) throw std::runtime_error("cudaFreeAsync of an unknown pointer");
    std::memset(p, 0xfb, it->second);
    POISON(p, it->second);
    r.used -= it->second;
    r.freed[it->first] = (it->second + 511) / 512 * 512 + kGap;
    r.live.erase(it);
  }, "cudaFreeAsync", false);
}
cudaError_t cudaMemGetInfo(size_t* f, size_t* t) { LOCK; *t = rt().limit; *f = rt().limit - rt().used; return cudaSuccess; }
cudaError_t cudaHostAlloc(void** p, size_t n, unsigned) { LOCK; *p = std::aligned_alloc(4096, (n + 4095) & ~4095ull); rt().pinned[static_cast<char*>(*p)] = n; return cudaSuccess; }
cudaError_t cudaMallocHost(void** p, size_t n) { return cudaHostAlloc(p, n, 0); }
cudaError_t cudaFreeHost(void* p) { LOCK; run_all(); rt().pinned.erase(static_cast<char*>(p)); std::free(p); return cudaSuccess; }
cudaError_t cudaHostRegister(void* p, size_t n, unsigned) { LOCK; rt().pinned[static_cast<char*>(p)] = n; return cudaSuccess; }
cudaError_t cudaHostUnregister(void* p) { LOCK; rt().pinned.erase(static_cast<char*>(p)); return cudaSuccess; }
cudaError_t cudaMemcpyAsync(void* d, const void* s, size_t n, cudaMemcpyKind k, cudaStream_t st) {
  LOCK;
  const bool dd = emu::is_device(d), sd = emu::is_device(s);
  if (!check_range(d, n) || !check_range(s, n)) return rt().set(cudaErrorInvalidValue);
  if (k != cudaMemcpyDefault && (sd != (k == cudaMemcpyDeviceToHost || k == cudaMemcpyDeviceToDevice) || dd != (k == cudaMemcpyHostToDevice || k == cudaMemcpyDeviceToDevice)))
    return rt().set(cudaErrorInvalidMemcpyDirection);
  if (!sd && !host_pinned(s)) {  // pageable: the source is read before the call returns
    auto t = std::make_shared<std::vector<char>>(static_cast<const char*>(s), static_cast<const char*>(s) + n);
    return put(stream(st), {[d, t] { std::memcpy(d, t->data(), t->size()); }, "cudaMemcpyAsync", 0, false, nullptr, nullptr});
  }
  put(stream(st), {[=] { std::memmove(d, s, n); }, "cudaMemcpyAsync", 0, false, nullptr, nullptr});
  return !dd && !host_pinned(d) && !stream(st)->capture ? cudaStreamSynchronize(st) : cudaSuccess;
}
cudaError_t cudaMemcpy(void* d, const void* s, size_t n, cudaMemcpyKind k) {
  LOCK;
  if (auto e = cudaMemcpyAsync(d, s, n, k, nullptr)) return e;
  return cudaStreamSynchronize(nullptr);
}
cudaError_t cudaMemcpy2DAsync(void* d, size_t dp, const void* s, size_t sp, size_t w, size_t h, cudaMemcpyKind k, cudaStream_t st) {
  for (size_t i = 0; i < h; ++i)
    if (auto e = cudaMemcpyAsync(static_cast<char*>(d) + i * dp, static_cast<const char*>(s) + i * sp, w, k, st)) return e;
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* d, int v, size_t n, cudaStream_t s) {
  LOCK;
  if (!emu::is_device(d) || !check_range(d, n)) return rt().set(cudaErrorInvalidValue);
  return put(stream(s), {[=] { std::memset(d, v, n); }, "cudaMemsetAsync", 0, false, nullptr, nullptr});
}
cudaError_t cudaMemset(void* d, int v, size_t n) { return cudaMemsetAsync(d, v, n, nullptr); }
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
  LOCK;
  std::memset(a, 0, sizeof *a);
  a->type = emu::is_device(p) ? cudaMemoryTypeDevice : host_pinned(p) ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
  a->devicePointer = a->type == cudaMemoryTypeDevice ? const_cast<void*>(p) : nullptr;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* f, cudaFuncAttribute a, int v) {
  LOCK;
  if (a != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (v > 227 << 10) return rt().set(cudaErrorInvalidValue);
  rt().smem[f] = std::max(v, 48 << 10);
  return cudaSuccess;
}

// ---- streams and events
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned f) { LOCK; *s = new CUstream_st; (*s)->blocking = !(f & cudaStreamNonBlocking); rt().streams.push_back(*s); return cudaSuccess; }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned f, int) { return cudaStreamCreateWithFlags(s, f); }
cudaError_t cudaStreamCreate(cudaStream_t* s) { return cudaStreamCreateWithFlags(s, 0); }
cudaError_t cudaDeviceGetStreamPriorityRange(int* lo, int* hi) { return *lo = 0, *hi = -5, cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t s) { LOCK; return run_until([q = stream(s)] { return idle(q); }); }
cudaError_t cudaStreamQuery(cudaStream_t s) { LOCK; if (idle(stream(s))) return rt().sticky; if (!rt().threads) step(); return cudaErrorNotReady; }
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  LOCK;
  auto e = cudaStreamSynchronize(s);
  s->stop = true;
  rt().mu.cv.notify_all();
  rt().mu.unlock();
  if (s->th.joinable()) s->th.join();
  rt().mu.lock();
  std::erase(rt().streams, s);
  delete s;
  return e;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { *e = new CUevent_st; return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t* e) { return cudaEventCreateWithFlags(e, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t e) { delete e; return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
  LOCK;
  e->mark = std::make_shared<Mark>();
  e->captured_on = stream(s)->capture ? stream(s) : nullptr;
  return put(stream(s), {nullptr, "cudaEventRecord", 0, false, nullptr, e->mark});
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
  LOCK;
  if (!e->mark) return cudaSuccess;
  if (e->captured_on && !stream(s)->capture) {  // the capture forks onto this stream
    stream(s)->capture = e->captured_on->capture;
    stream(s)->capture_origin = e->captured_on;
    return cudaSuccess;
  }
  if (stream(s)->capture) return cudaSuccess;  // captured ops replay in issue order
  return put(stream(s), {nullptr, "cudaStreamWaitEvent", 0, false, e->mark, nullptr});
}
cudaError_t cudaEventQuery(cudaEvent_t e) { LOCK; if (!e->mark || e->mark->done) return rt().sticky; if (!rt().threads) step(); return cudaErrorNotReady; }
cudaError_t cudaEventSynchronize(cudaEvent_t e) { LOCK; return run_until([m = e->mark] { return !m || m->done; }); }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t a, cudaEvent_t b) {
  if (!a->mark || !b->mark || !a->mark->done || !b->mark->done) return cudaErrorNotReady;
  return *ms = std::chrono::duration<float, std::milli>(b->mark->at - a->mark->at).count(), cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void* d) { return emu::enqueue_op(s, [=] { f(d); }, "cudaLaunchHostFunc", false); }

// ---- graphs: a capture is the list of closures; a launch replays it in issue order
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) { LOCK; if (stream(s) == &rt().null) return cudaErrorStreamCaptureUnsupported; s->capture = new CUgraph_st; return cudaSuccess; }
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* g) {
  LOCK;
  *g = s->capture;
  s->capture = nullptr;
  for (auto* t : rt().streams) if (t->capture == *g) t->capture = nullptr, t->capture_origin = nullptr;
  return *g ? cudaSuccess : cudaErrorStreamCaptureUnmatched;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus* st) { *st = stream(s)->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone; return cudaSuccess; }
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* e, cudaGraph_t g, unsigned long long) { *e = new CUgraphExec_st{g->ops}; return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s) {
  LOCK;
  for (const Op& o : e->ops)
    if (auto r = put(stream(s), {o.fn, o.what, 0, o.ordered, nullptr, nullptr})) return r;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) { delete g; return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e) { delete e; return cudaSuccess; }
}
