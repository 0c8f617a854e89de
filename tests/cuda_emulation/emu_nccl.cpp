// SPDX-License-Identifier: Apache-2.0
// Link-time substitute of NCCL over MPI.  Two builds of one source:
//   with the emulation (default): buffers are host memory, an op runs as an op of its stream;
//   -DNCCL_OVER_MPI_CUDA with the real runtime: buffers are staged through the host, the op runs inside the call
//   (this is how several ranks share ONE GPU, which real NCCL refuses).
// Every collective first compares (operation, count, type, root) over the ranks: a mismatch is an error, not a hang.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <mpi.h>
#include <nccl.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <unistd.h>
#include <vector>

#ifndef NCCL_OVER_MPI_CUDA
#include "emu_rt.h"
#endif

struct ncclComm {
  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0, size = 0, device = 0;
  uint64_t seq = 0;
  std::string error;
  std::vector<double> premul;
};
namespace {
thread_local std::string g_error;
ncclResult_t bad(const std::string& why) { return g_error = why, ncclInvalidArgument; }
size_t width(ncclDataType_t t) {
  switch (t) {
    case ncclInt8: case ncclUint8: case ncclFloat8e4m3: case ncclFloat8e5m2: return 1;
    case ncclFloat16: case ncclBfloat16: return 2;
    case ncclInt32: case ncclUint32: case ncclFloat32: return 4;
    default: return 8;
  }
}
MPI_Datatype mpi_type(ncclDataType_t t) {
  switch (t) {
    case ncclInt8: return MPI_INT8_T;
    case ncclUint8: return MPI_UINT8_T;
    case ncclInt32: return MPI_INT32_T;
    case ncclUint32: return MPI_UINT32_T;
    case ncclInt64: return MPI_INT64_T;
    case ncclUint64: return MPI_UINT64_T;
    case ncclFloat64: return MPI_DOUBLE;
    default: return MPI_FLOAT;  // the 16-bit types are reduced in float
  }
}
bool is_half(ncclDataType_t t) { return t == ncclFloat16 || t == ncclBfloat16; }
void widen(const void* p, float* o, size_t n, ncclDataType_t t) {
  if (t == ncclBfloat16) for (size_t i = 0; i < n; ++i) o[i] = __bfloat162float(static_cast<const __nv_bfloat16*>(p)[i]);
  else for (size_t i = 0; i < n; ++i) o[i] = __half2float(static_cast<const __half*>(p)[i]);
}
void narrow(const float* p, void* o, size_t n, ncclDataType_t t) {
  if (t == ncclBfloat16) for (size_t i = 0; i < n; ++i) static_cast<__nv_bfloat16*>(o)[i] = __float2bfloat16(p[i]);
  else for (size_t i = 0; i < n; ++i) static_cast<__half*>(o)[i] = __float2half(p[i]);
}
template <class T> void scale_as(void* p, size_t n, double s) { for (size_t i = 0; i < n; ++i) static_cast<T*>(p)[i] = static_cast<T>(double(static_cast<T*>(p)[i]) * s); }
void scale(void* p, size_t n, ncclDataType_t t, double s) {
  switch (t) {
    case ncclFloat64: return scale_as<double>(p, n, s);
    case ncclInt32: return scale_as<int32_t>(p, n, s);
    case ncclUint32: return scale_as<uint32_t>(p, n, s);
    case ncclInt64: return scale_as<int64_t>(p, n, s);
    case ncclUint64: return scale_as<uint64_t>(p, n, s);
    case ncclInt8: return scale_as<int8_t>(p, n, s);
    case ncclUint8: return scale_as<uint8_t>(p, n, s);
    default: return scale_as<float>(p, n, s);
  }
}
void mpi(int e, const char* what) {
  if (e != MPI_SUCCESS) throw std::runtime_error(std::string(what) + " failed in MPI");
}
int cnt(size_t n) {
  if (n > 0x7fffffff) throw std::runtime_error("more than 2^31 - 1 elements: not in this substitute");
  return int(n);
}
struct Sig { uint64_t seq, count; int op, type, red, root; };
void agree(ncclComm* c, Sig s, const char* what) {
  std::vector<Sig> all(size_t(c->size));
  s.seq = c->seq++;
  MPI_Request r;
  mpi(MPI_Iallgather(&s, sizeof s, MPI_BYTE, all.data(), sizeof s, MPI_BYTE, c->comm, &r), what);
  static const double limit = std::getenv("EMU_NCCL_TIMEOUT") ? std::atof(std::getenv("EMU_NCCL_TIMEOUT")) : 60;
  const double t0 = MPI_Wtime();
  for (int done = 0; !done;) {
    mpi(MPI_Test(&r, &done, MPI_STATUS_IGNORE), what);
    if (!done && MPI_Wtime() - t0 > 1e-3) usleep(50);
    if (!done && MPI_Wtime() - t0 > limit) throw std::runtime_error(std::string(what) + " #" + std::to_string(s.seq) + ": rank " + std::to_string(c->rank) + " of " + std::to_string(c->size) + " waits in vain for the others");
  }
  for (int i = 0; i < c->size; ++i)
    if (std::memcmp(&all[size_t(i)], &s, sizeof s))
      throw std::runtime_error(std::string(what) + " #" + std::to_string(s.seq) + ": rank " + std::to_string(c->rank) + " has op " + std::to_string(s.op) + " count " + std::to_string(s.count) + " type " + std::to_string(s.type) + ", rank " +
                               std::to_string(i) + " has op " + std::to_string(all[size_t(i)].op) + " count " + std::to_string(all[size_t(i)].count) + " type " + std::to_string(all[size_t(i)].type));
}
#ifdef NCCL_OVER_MPI_CUDA
void ck(cudaError_t e) { if (e) throw std::runtime_error(cudaGetErrorString(e)); }
struct In {  // a host view of a device buffer to read
  std::vector<char> h;
  In(const void* d, size_t n) : h(n) { if (n) ck(cudaMemcpy(h.data(), d, n, cudaMemcpyDefault)); }
  const void* get() { return h.data(); }
};
struct Out {
  std::vector<char> h;
  void* d;
  Out(void* p, size_t n) : h(n), d(p) {}
  void* get() { return h.data(); }
  void put() { if (!h.empty()) ck(cudaMemcpy(d, h.data(), h.size(), cudaMemcpyDefault)); }
};
#else
struct In { const void* d; In(const void* p, size_t) : d(p) {} const void* get() { return d; } };
struct Out { void* d; Out(void* p, size_t) : d(p) {} void* get() { return d; } void put() {} };
#endif
struct Call { ncclComm* c; cudaStream_t s; std::function<void()> fn; int p2p = 0, peer = 0; const void* src = nullptr; void* dst = nullptr; size_t bytes = 0; };
thread_local int depth = 0;
thread_local std::vector<Call> pending;

ncclResult_t submit(ncclComm* c, cudaStream_t s, std::function<void()> fn, const char* what) {
#ifdef NCCL_OVER_MPI_CUDA
  (void)what;
  if (cudaStreamSynchronize(s)) return ncclUnhandledCudaError;
  try { fn(); } catch (const std::exception& e) { c->error = g_error = e.what(); return ncclSystemError; }
  return ncclSuccess;
#else
  return emu::enqueue_op(s, [c, f = std::move(fn)] { try { f(); } catch (const std::exception& e) { c->error = e.what(); throw; } }, what, true) ? ncclUnhandledCudaError : ncclSuccess;
#endif
}
ncclResult_t issue(Call k, const char* what) {
  if (!k.c) return bad("a null communicator");
  if (depth) { pending.push_back(std::move(k)); return ncclSuccess; }
  return submit(k.c, k.s, std::move(k.fn), what);
}
void p2p(const std::vector<Call>& v) {
  std::vector<MPI_Request> rq;
  std::vector<std::unique_ptr<In>> in;
  std::vector<std::unique_ptr<Out>> out;
  for (const Call& k : v) {
    MPI_Request r;
    if (k.p2p == 1) in.push_back(std::make_unique<In>(k.src, k.bytes)), mpi(MPI_Isend(in.back()->get(), cnt(k.bytes), MPI_BYTE, k.peer, 7, k.c->comm, &r), "ncclSend");
    else out.push_back(std::make_unique<Out>(k.dst, k.bytes)), mpi(MPI_Irecv(out.back()->get(), cnt(k.bytes), MPI_BYTE, k.peer, 7, k.c->comm, &r), "ncclRecv");
    rq.push_back(r);
  }
  std::vector<MPI_Status> st(rq.size());
  mpi(MPI_Waitall(int(rq.size()), rq.data(), st.data()), "a group of send and recv");
  for (size_t i = 0; i < v.size(); ++i) {
    int n = 0;
    if (v[i].p2p == 2) MPI_Get_count(&st[i], MPI_BYTE, &n);
    if (v[i].p2p == 2 && size_t(n) != v[i].bytes) throw std::runtime_error("ncclRecv of " + std::to_string(v[i].bytes) + " bytes met a send of " + std::to_string(n));
  }
  for (auto& o : out) o->put();
}
// reduce `count` elements (times size for reduce-scatter) of src into dst; dst may be src
enum Kind { kAll, kRoot, kScatter };
void reduce(Kind kind, const void* src, void* dst, size_t count, ncclDataType_t t, ncclRedOp_t op, int root, ncclComm* c) {
  const size_t total = kind == kScatter ? count * size_t(c->size) : count, w = width(t);
  const bool have = kind != kRoot || c->rank == root;
  In in(src, total * w);
  Out out(have ? dst : nullptr, have ? count * w : 0);
  std::vector<float> a, b;
  const void* s = in.get();
  std::vector<char> copy;
  double mul = op == ncclAvg ? 1.0 / c->size : 1.0;
  if (int(op) >= int(ncclNumOps)) {
    mul = 1.0;
    copy.assign(static_cast<const char*>(s), static_cast<const char*>(s) + total * w);
    if (!is_half(t)) scale(copy.data(), total, t, c->premul.at(size_t(op) - ncclNumOps)), s = copy.data();
  }
  if (is_half(t)) {
    a.resize(total), b.resize(count);
    widen(s, a.data(), total, t);
    if (int(op) >= int(ncclNumOps)) scale(a.data(), total, ncclFloat32, c->premul.at(size_t(op) - ncclNumOps));
    s = a.data();
  }
  const size_t rw = is_half(t) ? 4 : w;
  std::vector<char> tmp(count * rw);  // MPI forbids overlapping buffers, NCCL does not
  const MPI_Op m = op == ncclProd ? MPI_PROD : op == ncclMax ? MPI_MAX : op == ncclMin ? MPI_MIN : MPI_SUM;
  if (kind == kAll) mpi(MPI_Allreduce(s, tmp.data(), cnt(count), mpi_type(t), m, c->comm), "ncclAllReduce");
  else if (kind == kRoot) mpi(MPI_Reduce(s, tmp.data(), cnt(count), mpi_type(t), m, root, c->comm), "ncclReduce");
  else mpi(MPI_Reduce_scatter_block(s, tmp.data(), cnt(count), mpi_type(t), m, c->comm), "ncclReduceScatter");
  if (!have) return;
  if (mul != 1.0) scale(tmp.data(), count, is_half(t) ? ncclFloat32 : t, mul);
  if (is_half(t)) narrow(reinterpret_cast<float*>(tmp.data()), out.get(), count, t);
  else std::memcpy(out.get(), tmp.data(), tmp.size());
  out.put();
}
void drain() {
#ifndef NCCL_OVER_MPI_CUDA
  cudaDeviceSynchronize();
#endif
}
struct Id { char magic[8]; int root, serial; };
}  // namespace

extern "C" {
ncclResult_t ncclGetVersion(int* v) { return *v = NCCL_VERSION_CODE, ncclSuccess; }
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static int serial = 0;
  int root;
  MPI_Comm_rank(MPI_COMM_WORLD, &root);
  std::memset(id, 0, sizeof *id);
  const Id x{{'m', 'p', 'i', 'n', 'c', 'c', 'l', 0}, root, ++serial};
  std::memcpy(id, &x, sizeof x);
  return ncclSuccess;
}
ncclResult_t ncclCommInitRank(ncclComm_t* out, int n, ncclUniqueId uid, int rank) {
  Id id;
  std::memcpy(&id, &uid, sizeof id);
  if (std::memcmp(id.magic, "mpinccl", 8) || rank < 0 || rank >= n) return bad("ncclCommInitRank: the id or the rank is wrong");
  drain();
  // the creator of the id gathers who is who, then all make the communicator
  int me, tag = 1000 + id.serial % 16000;
  MPI_Comm_rank(MPI_COMM_WORLD, &me);
  std::vector<int> world(size_t(n), -1);
  if (me == id.root) {
    world[size_t(rank)] = me;
    for (int i = 1; i < n; ++i) {
      int r;
      MPI_Status st;
      MPI_Recv(&r, 1, MPI_INT, MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, &st);
      if (r < 0 || r >= n || world[size_t(r)] != -1) return bad("ncclCommInitRank: two callers with rank " + std::to_string(r));
      world[size_t(r)] = st.MPI_SOURCE;
    }
    for (int i = 0; i < n; ++i) if (i != rank) MPI_Send(world.data(), n, MPI_INT, world[size_t(i)], tag, MPI_COMM_WORLD);
  } else {
    MPI_Send(&rank, 1, MPI_INT, id.root, tag, MPI_COMM_WORLD);
    MPI_Recv(world.data(), n, MPI_INT, id.root, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  }
  MPI_Group all, g;
  auto c = std::make_unique<ncclComm>();
  MPI_Comm_group(MPI_COMM_WORLD, &all);
  MPI_Group_incl(all, n, world.data(), &g);
  MPI_Comm_create_group(MPI_COMM_WORLD, g, tag, &c->comm);
  MPI_Group_free(&g), MPI_Group_free(&all);
  MPI_Comm_set_errhandler(c->comm, MPI_ERRORS_RETURN);
  c->rank = rank, c->size = n;
  cudaGetDevice(&c->device);
  *out = c.release();
  return ncclSuccess;
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t* c, int n, ncclUniqueId id, int r, ncclConfig_t*) { return ncclCommInitRank(c, n, id, r); }
ncclResult_t ncclCommSplit(ncclComm_t c, int color, int key, ncclComm_t* out, ncclConfig_t*) {
  drain();
  auto x = std::make_unique<ncclComm>();
  if (MPI_Comm_split(c->comm, color == NCCL_SPLIT_NOCOLOR ? MPI_UNDEFINED : color, key, &x->comm)) return ncclSystemError;
  *out = nullptr;
  if (x->comm == MPI_COMM_NULL) return ncclSuccess;
  MPI_Comm_rank(x->comm, &x->rank), MPI_Comm_size(x->comm, &x->size);
  MPI_Comm_set_errhandler(x->comm, MPI_ERRORS_RETURN);
  x->device = c->device;
  *out = x.release();
  return ncclSuccess;
}
ncclResult_t ncclCommFinalize(ncclComm_t) { return drain(), ncclSuccess; }
ncclResult_t ncclCommDestroy(ncclComm_t c) {
  if (!c) return ncclSuccess;
  drain();
  MPI_Comm_free(&c->comm);
  delete c;
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t c) { delete c; return ncclSuccess; }  // the MPI communicator is left behind
ncclResult_t ncclCommCount(const ncclComm_t c, int* n) { return *n = c->size, ncclSuccess; }
ncclResult_t ncclCommUserRank(const ncclComm_t c, int* r) { return *r = c->rank, ncclSuccess; }
ncclResult_t ncclCommCuDevice(const ncclComm_t c, int* d) { return *d = c->device, ncclSuccess; }
ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t* e) { return *e = c->error.empty() ? ncclSuccess : ncclSystemError, ncclSuccess; }
const char* ncclGetLastError(ncclComm_t c) { return c && !c->error.empty() ? c->error.c_str() : g_error.c_str(); }
const char* ncclGetErrorString(ncclResult_t r) { return r == ncclSuccess ? "no error" : r == ncclInvalidArgument ? "invalid argument" : r == ncclInvalidUsage ? "invalid usage" : "unhandled error"; }
ncclResult_t ncclMemAlloc(void** p, size_t n) { return cudaMalloc(p, n) ? ncclUnhandledCudaError : ncclSuccess; }
ncclResult_t ncclMemFree(void* p) { return cudaFree(p) ? ncclUnhandledCudaError : ncclSuccess; }
ncclResult_t ncclCommRegister(const ncclComm_t, void*, size_t, void** h) { return *h = nullptr, ncclSuccess; }
ncclResult_t ncclCommDeregister(const ncclComm_t, void*) { return ncclSuccess; }
ncclResult_t ncclRedOpCreatePreMulSum(ncclRedOp_t* op, void* s, ncclDataType_t t, ncclScalarResidence_t r, ncclComm_t c) {
  if (r != ncclScalarHostImmediate) return bad("ncclRedOpCreatePreMulSum: only host scalars here");
  float f;
  if (is_half(t)) widen(s, &f, 1, t); else f = t == ncclFloat64 ? float(*static_cast<double*>(s)) : *static_cast<float*>(s);
  c->premul.push_back(f);
  return *op = ncclRedOp_t(int(ncclNumOps) + int(c->premul.size()) - 1), ncclSuccess;
}
ncclResult_t ncclRedOpDestroy(ncclRedOp_t, ncclComm_t) { return ncclSuccess; }

ncclResult_t ncclAllReduce(const void* s, void* d, size_t n, ncclDataType_t t, ncclRedOp_t op, ncclComm_t c, cudaStream_t st) {
  return issue({c, st, [=] { agree(c, {0, n, 1, t, op, 0}, "ncclAllReduce"); reduce(kAll, s, d, n, t, op, 0, c); }}, "ncclAllReduce");
}
ncclResult_t ncclReduce(const void* s, void* d, size_t n, ncclDataType_t t, ncclRedOp_t op, int root, ncclComm_t c, cudaStream_t st) {
  return issue({c, st, [=] { agree(c, {0, n, 2, t, op, root}, "ncclReduce"); reduce(kRoot, s, d, n, t, op, root, c); }}, "ncclReduce");
}
ncclResult_t ncclReduceScatter(const void* s, void* d, size_t n, ncclDataType_t t, ncclRedOp_t op, ncclComm_t c, cudaStream_t st) {
  return issue({c, st, [=] { agree(c, {0, n, 3, t, op, 0}, "ncclReduceScatter"); reduce(kScatter, s, d, n, t, op, 0, c); }}, "ncclReduceScatter");
}
ncclResult_t ncclAllGather(const void* s, void* d, size_t n, ncclDataType_t t, ncclComm_t c, cudaStream_t st) {
  return issue({c, st, [=] {
    agree(c, {0, n, 4, t, 0, 0}, "ncclAllGather");
    const size_t b = n * width(t);
    In in(s, b);
    Out out(d, b * size_t(c->size));
    const bool place = in.get() == static_cast<char*>(out.get()) + b * size_t(c->rank);
    mpi(MPI_Allgather(place ? MPI_IN_PLACE : in.get(), cnt(b), MPI_BYTE, out.get(), cnt(b), MPI_BYTE, c->comm), "ncclAllGather");
    out.put();
  }}, "ncclAllGather");
}
ncclResult_t ncclBroadcast(const void* s, void* d, size_t n, ncclDataType_t t, int root, ncclComm_t c, cudaStream_t st) {
  return issue({c, st, [=] {
    agree(c, {0, n, 5, t, 0, root}, "ncclBroadcast");
    const size_t b = n * width(t);
    Out out(d, b);
    if (c->rank == root) { In in(s, b); std::memmove(out.get(), in.get(), b); }
    mpi(MPI_Bcast(out.get(), cnt(b), MPI_BYTE, root, c->comm), "ncclBroadcast");
    out.put();
  }}, "ncclBroadcast");
}
ncclResult_t ncclBcast(void* b, size_t n, ncclDataType_t t, int root, ncclComm_t c, cudaStream_t st) { return ncclBroadcast(b, b, n, t, root, c, st); }
ncclResult_t ncclAlltoAll(const void* s, void* d, size_t n, ncclDataType_t t, ncclComm_t c, cudaStream_t st) {
  return issue({c, st, [=] {
    agree(c, {0, n, 6, t, 0, 0}, "ncclAlltoAll");
    const size_t b = n * width(t);
    In in(s, b * size_t(c->size));
    Out out(d, b * size_t(c->size));
    mpi(MPI_Alltoall(in.get(), cnt(b), MPI_BYTE, out.get(), cnt(b), MPI_BYTE, c->comm), "ncclAlltoAll");
    out.put();
  }}, "ncclAlltoAll");
}
ncclResult_t ncclSend(const void* s, size_t n, ncclDataType_t t, int peer, ncclComm_t c, cudaStream_t st) {
  if (!c || peer < 0 || peer >= c->size) return bad("ncclSend: no such peer");
  Call k{c, st, nullptr, 1, peer, s, nullptr, n * width(t)};
  Call self = k;
  k.fn = [self] { p2p({self}); };
  return issue(std::move(k), "ncclSend");
}
ncclResult_t ncclRecv(void* d, size_t n, ncclDataType_t t, int peer, ncclComm_t c, cudaStream_t st) {
  if (!c || peer < 0 || peer >= c->size) return bad("ncclRecv: no such peer");
  Call k{c, st, nullptr, 2, peer, nullptr, d, n * width(t)};
  Call self = k;
  k.fn = [self] { p2p({self}); };
  return issue(std::move(k), "ncclRecv");
}
ncclResult_t ncclGroupStart() { return ++depth, ncclSuccess; }
ncclResult_t ncclGroupEnd() {
  if (depth == 0) return bad("ncclGroupEnd without ncclGroupStart"), ncclInvalidUsage;
  if (--depth) return ncclSuccess;
  auto v = std::move(pending);
  pending.clear();
  ncclResult_t r = ncclSuccess;
  std::vector<Call> together;  // the sends and receives of the group run as one, whatever their communicators
  for (auto& k : v) {
    if (k.p2p) together.push_back(k);
    else if (auto e = submit(k.c, k.s, std::move(k.fn), "a group")) r = e;
  }
  while (!together.empty()) {  // one op a stream
    std::vector<Call> a, rest;
    for (auto& k : together) (k.s == together[0].s ? a : rest).push_back(k);
    if (auto e = submit(a[0].c, a[0].s, [a] { p2p(a); }, "a group of send and recv")) r = e;
    together = std::move(rest);
  }
  return r;
}
ncclResult_t ncclGroupSimulateEnd(ncclSimInfo_t*) { return ncclInvalidUsage; }
}
