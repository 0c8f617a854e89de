// SPDX-License-Identifier: Apache-2.0
// Link-time substitute of cublasLtMatmul, cublasGemmEx and friends: everything is converted to float (or kept in
// double), multiplied by CBLAS, and converted back once.  Column-major, as cuBLAS is.
#include <cblas.h>
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <vector>

#include "emu_rt.h"

namespace {
size_t width(cudaDataType t) {
  switch (t) {
    case CUDA_R_16BF: case CUDA_R_16F: return 2;
    case CUDA_R_32F: return 4;
    case CUDA_R_64F: return 8;
    default: throw std::runtime_error("cuBLAS substitute: this type is not supported");
  }
}
double load(const void* p, cudaDataType t, size_t i) {
  switch (t) {
    case CUDA_R_16BF: return __bfloat162float(static_cast<const __nv_bfloat16*>(p)[i]);
    case CUDA_R_16F: return __half2float(static_cast<const __half*>(p)[i]);
    case CUDA_R_32F: return static_cast<const float*>(p)[i];
    default: return static_cast<const double*>(p)[i];
  }
}
void store(void* p, cudaDataType t, size_t i, double v) {
  switch (t) {
    case CUDA_R_16BF: static_cast<__nv_bfloat16*>(p)[i] = __float2bfloat16(float(v)); break;
    case CUDA_R_16F: static_cast<__half*>(p)[i] = __float2half(float(v)); break;
    case CUDA_R_32F: static_cast<float*>(p)[i] = float(v); break;
    default: static_cast<double*>(p)[i] = v;
  }
}
struct Layout { cudaDataType type; uint64_t rows, cols; int64_t ld; int32_t order = CUBLASLT_ORDER_COL, batch = 1; int64_t stride = 0; };
struct Desc {
  cublasComputeType_t compute;
  cudaDataType scale;
  std::map<int, std::vector<char>> attr;
  template <class T> T get(cublasLtMatmulDescAttributes_t a, T d) const {
    auto i = attr.find(int(a));
    if (i != attr.end()) std::memcpy(&d, i->second.data(), std::min(sizeof d, i->second.size()));
    return d;
  }
};
struct Pref { uint64_t workspace = 0; };
size_t at(const Layout& l, size_t r, size_t c) { return l.order == CUBLASLT_ORDER_ROW ? r * size_t(l.ld) + c : c * size_t(l.ld) + r; }
std::vector<float> dense(const void* p, const Layout& l, bool t) {  // op(X), column-major
  const size_t m = t ? l.cols : l.rows, n = t ? l.rows : l.cols;
  std::vector<float> o(m * n);
  for (size_t j = 0; j < n; ++j)
    for (size_t i = 0; i < m; ++i) o[j * m + i] = float(load(p, l.type, t ? at(l, j, i) : at(l, i, j)));
  return o;
}
double gelu(double x) { return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }
double dgelu(double x) {
  const double u = 0.7978845608028654 * (x + 0.044715 * x * x * x), t = std::tanh(u);
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
}
const void* off(const void* p, const Layout& l, int b) { return static_cast<const char*>(p) + size_t(b) * size_t(l.stride) * width(l.type); }
void matmul(const Desc& d, float alpha, const void* A, Layout la, const void* B, Layout lb, float beta, const void* C, Layout lc, void* D, Layout ld) {
  const bool ta = d.get<int32_t>(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_N) != CUBLAS_OP_N, tb = d.get<int32_t>(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N) != CUBLAS_OP_N;
  const uint64_t m = ld.rows, n = ld.cols, k = ta ? la.rows : la.cols;
  if ((ta ? la.cols : la.rows) != m || (tb ? lb.rows : lb.cols) != n || (tb ? lb.cols : lb.rows) != k) throw std::runtime_error("cublasLtMatmul: the shapes do not fit");
  const int e = int(d.get<uint32_t>(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT));
  void* bias = d.get<void*>(CUBLASLT_MATMUL_DESC_BIAS_POINTER, nullptr);
  char* aux = d.get<char*>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, nullptr);
  const int64_t auxld = d.get<int64_t>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, int64_t(m));
  const auto bt = cudaDataType(d.get<int32_t>(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, ld.type)), at_ = cudaDataType(d.get<int32_t>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, ld.type));
  for (int b = 0; b < ld.batch; ++b) {
    const auto a = dense(off(A, la, b), la, ta), bb = dense(off(B, lb, b), lb, tb);
    std::vector<float> o(m * n);
    cblas_sgemm(CblasColMajor, CblasNoTrans, CblasNoTrans, int(m), int(n), int(k), alpha, a.data(), int(m), bb.data(), int(k), 0.f, o.data(), int(m));
    std::vector<double> bg(m);
    for (uint64_t j = 0; j < n; ++j)
      for (uint64_t i = 0; i < m; ++i) {
        double v = o[j * m + i];
        if (beta != 0.f) v += double(beta) * load(off(C, lc, b), lc.type, at(lc, i, j));
        if (e & CUBLASLT_EPILOGUE_BIAS) v += load(bias, bt, i);
        switch (e & ~(CUBLASLT_EPILOGUE_BIAS)) {
          case CUBLASLT_EPILOGUE_DEFAULT: case 0: break;
          case CUBLASLT_EPILOGUE_RELU: v = v > 0 ? v : 0; break;
          case CUBLASLT_EPILOGUE_GELU: v = gelu(v); break;
          case CUBLASLT_EPILOGUE_GELU_AUX: store(aux, at_, j * size_t(auxld) + i, v), v = gelu(v); break;
          case CUBLASLT_EPILOGUE_DGELU: case CUBLASLT_EPILOGUE_DGELU_BGRAD: v *= dgelu(load(aux, at_, j * size_t(auxld) + i)); break;
          case CUBLASLT_EPILOGUE_BGRADA: case CUBLASLT_EPILOGUE_BGRADB: break;
          default: throw std::runtime_error("cublasLtMatmul: this epilogue is not in the substitute");
        }
        bg[i] += v;
        store(const_cast<void*>(off(D, ld, b)), ld.type, at(ld, i, j), v);
      }
    if (e == CUBLASLT_EPILOGUE_DGELU_BGRAD) for (uint64_t i = 0; i < m; ++i) store(bias, bt, i, bg[i]);
    if (e == CUBLASLT_EPILOGUE_BGRADA) for (uint64_t i = 0; i < m; ++i) { double s = 0; for (uint64_t q = 0; q < k; ++q) s += a[q * m + i]; store(bias, bt, i, s); }
    if (e == CUBLASLT_EPILOGUE_BGRADB) for (uint64_t j = 0; j < n; ++j) { double s = 0; for (uint64_t q = 0; q < k; ++q) s += bb[j * k + q]; store(bias, bt, j, s); }
  }
}
struct Handle { cudaStream_t s = nullptr; };
float scalar(const void* p, cudaDataType t) { return float(load(p, t, 0)); }
cublasStatus_t run(cudaStream_t s, std::function<void()> f, const char* what) { return emu::enqueue_op(s, std::move(f), what, false) ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS; }
template <class H, class T> T* as(H h) { return reinterpret_cast<T*>(h); }
}  // namespace
extern "C" {
const char* cublasGetStatusString(cublasStatus_t s) { return s == CUBLAS_STATUS_SUCCESS ? "success" : "cuBLAS error"; }
size_t cublasLtGetVersion() { return CUBLAS_VERSION; }
cublasStatus_t cublasLtCreate(cublasLtHandle_t* h) { return *h = reinterpret_cast<cublasLtHandle_t>(new Handle), CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t h) { delete as<cublasLtHandle_t, Handle>(h); return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* d, cublasComputeType_t c, cudaDataType_t s) { return *d = reinterpret_cast<cublasLtMatmulDesc_t>(new Desc{c, s, {}}), CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) { delete as<cublasLtMatmulDesc_t, Desc>(d); return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t a, const void* b, size_t n) {
  as<cublasLtMatmulDesc_t, Desc>(d)->attr[int(a)].assign(static_cast<const char*>(b), static_cast<const char*>(b) + n);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* l, cudaDataType t, uint64_t r, uint64_t c, int64_t ld) { return *l = reinterpret_cast<cublasLtMatrixLayout_t>(new Layout{t, r, c, ld}), CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) { delete as<cublasLtMatrixLayout_t, Layout>(l); return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t a, const void* b, size_t n) {
  auto* x = as<cublasLtMatrixLayout_t, Layout>(l);
  switch (a) {
    case CUBLASLT_MATRIX_LAYOUT_ORDER: std::memcpy(&x->order, b, n); break;
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: std::memcpy(&x->batch, b, n); break;
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: std::memcpy(&x->stride, b, n); break;
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* p) { return *p = reinterpret_cast<cublasLtMatmulPreference_t>(new Pref), CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) { delete as<cublasLtMatmulPreference_t, Pref>(p); return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, const void*, size_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int want, cublasLtMatmulHeuristicResult_t* r, int* got) {
  *got = want > 0;
  if (want > 0) std::memset(r, 0, sizeof *r), r->state = CUBLAS_STATUS_SUCCESS;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t d, const void* al, const void* A, cublasLtMatrixLayout_t la, const void* B, cublasLtMatrixLayout_t lb, const void* be, const void* C, cublasLtMatrixLayout_t lc, void* D, cublasLtMatrixLayout_t ld, const cublasLtMatmulAlgo_t*, void*, size_t, cudaStream_t s) {
  const Desc x = *as<cublasLtMatmulDesc_t, Desc>(d);
  using L = cublasLtMatrixLayout_t;
  const Layout a = *as<L, Layout>(la), b = *as<L, Layout>(lb), c = *as<L, Layout>(lc), o = *as<L, Layout>(ld);
  return run(s, [=, alpha = scalar(al, x.scale), beta = scalar(be, x.scale)] { matmul(x, alpha, A, a, B, b, beta, C, c, D, o); }, "cublasLtMatmul");
}
cublasStatus_t cublasCreate_v2(cublasHandle_t* h) { return *h = reinterpret_cast<cublasHandle_t>(new Handle), CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasDestroy_v2(cublasHandle_t h) { delete as<cublasHandle_t, Handle>(h); return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetStream_v2(cublasHandle_t h, cudaStream_t s) { return as<cublasHandle_t, Handle>(h)->s = s, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t, void*, size_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const void* al, const void* A, cudaDataType at, int lda, long long sa, const void* B, cudaDataType bt, int ldb, long long sb, const void* be, void* C, cudaDataType ct, int ldc, long long sc, int batch, cublasComputeType_t ct_, cublasGemmAlgo_t) {
  Desc d{ct_, CUDA_R_32F, {}};
  for (auto [w, v] : {std::pair{CUBLASLT_MATMUL_DESC_TRANSA, ta}, std::pair{CUBLASLT_MATMUL_DESC_TRANSB, tb}}) { int32_t x = v; d.attr[int(w)].assign(reinterpret_cast<char*>(&x), reinterpret_cast<char*>(&x) + 4); }
  const Layout a{at, uint64_t(ta == CUBLAS_OP_N ? m : k), uint64_t(ta == CUBLAS_OP_N ? k : m), lda, CUBLASLT_ORDER_COL, batch, sa}, b{bt, uint64_t(tb == CUBLAS_OP_N ? k : n), uint64_t(tb == CUBLAS_OP_N ? n : k), ldb, CUBLASLT_ORDER_COL, batch, sb}, c{ct, uint64_t(m), uint64_t(n), ldc, CUBLASLT_ORDER_COL, batch, sc};
  return run(as<cublasHandle_t, Handle>(h)->s, [=, alpha = scalar(al, CUDA_R_32F), beta = scalar(be, CUDA_R_32F)] { matmul(d, alpha, A, a, B, b, beta, C, c, C, c); }, "cublasGemmEx");
}
cublasStatus_t cublasGemmEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const void* al, const void* A, cudaDataType at, int lda, const void* B, cudaDataType bt, int ldb, const void* be, void* C, cudaDataType ct, int ldc, cublasComputeType_t c, cublasGemmAlgo_t g) {
  return cublasGemmStridedBatchedEx(h, ta, tb, m, n, k, al, A, at, lda, 0, B, bt, ldb, 0, be, C, ct, ldc, 0, 1, c, g);
}
cublasStatus_t cublasSgemm_v2(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const float* al, const float* A, int lda, const float* B, int ldb, const float* be, float* C, int ldc) {
  return cublasGemmEx(h, ta, tb, m, n, k, al, A, CUDA_R_32F, lda, B, CUDA_R_32F, ldb, be, C, CUDA_R_32F, ldc, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
}
}
