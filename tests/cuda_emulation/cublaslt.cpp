// SPDX-License-Identifier: Apache-2.0
// The part of cuBLASLt that kernels/cuda/cublaslt.cpp calls, on OpenBLAS: products of column-major matrices with f32
// sums. It refuses what the library refuses (dtypes, layouts, alignment, workspaces), and more strictly: an algorithm
// wants exactly the alignment that it was asked with, and runs for the one product that it was chosen for.
#include "tests/cuda_emulation/runtime/runtime.hpp"
#include "tests/cuda_emulation/settings.hpp"

#include <algorithm>
#include <bit>
#include <cblas.h>
#include <cstdint>
#include <cstring>
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <limits>
#include <type_traits>
#include <vector>

namespace {

// What the library's handles point to.
struct Operation {
    cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
    cudaDataType_t scale = CUDA_R_32F;
    std::int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
    std::uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    const void* bias = nullptr;
    std::int32_t bias_type = -1; // the result's
    const float* scale_a = nullptr;
    const float* scale_b = nullptr;
};
struct Layout {
    cudaDataType_t type;
    std::uint64_t rows, columns;
    std::int64_t stride; // from column to column
};
struct Wish {
    std::uint64_t workspace_bytes = 0;
    std::uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
    std::uint32_t a_alignment = 256, b_alignment = 256, c_alignment = 256, d_alignment = 256;
};
struct Problem {
    Operation operation;
    Layout a, b, c, d;
    std::uint64_t terms() const { return operation.transpose_a == CUBLAS_OP_N ? a.columns : a.rows; }
};

enum class Kind : std::uint32_t { whole, halves }; // halves: k in two parts, whose sums meet in the workspace
struct Algorithm {
    std::uint64_t problem; // its hash
    std::uint64_t workspace_bytes;
    std::uint32_t a_alignment, b_alignment, c_alignment, d_alignment;
    Kind kind;
};
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t) && std::is_trivially_copyable_v<Algorithm>);

template <class Object, class Handle> Object& behind(Handle handle) { return *reinterpret_cast<Object*>(handle); }

template <class Handle, class Object> cublasStatus_t make(Handle* handle, const Object& object) {
    *handle = reinterpret_cast<Handle>(new Object(object));
    return CUBLAS_STATUS_SUCCESS;
}

template <class Object, class Handle> cublasStatus_t destroy(Handle handle) {
    delete &behind<Object>(handle);
    return CUBLAS_STATUS_SUCCESS;
}

template <class Value> cublasStatus_t assign(Value& to, const void* from, std::size_t bytes) {
    if (from == nullptr || bytes != sizeof to) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(&to, from, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

bool is_fp8(cudaDataType_t type) { return type == CUDA_R_8F_E4M3 || type == CUDA_R_8F_E5M2; }

std::size_t bytes_of(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : is_fp8(type) ? 1 : 2; }

std::size_t bytes_of(const Layout& layout) {
    return ((layout.columns - 1) * static_cast<std::size_t>(layout.stride) + layout.rows) * bytes_of(layout.type);
}

float load(const void* from, cudaDataType_t type, std::size_t i) {
    switch (type) {
    case CUDA_R_16BF:
        return __bfloat162float(static_cast<const __nv_bfloat16*>(from)[i]);
    case CUDA_R_16F:
        return __half2float(static_cast<const __half*>(from)[i]);
    case CUDA_R_8F_E4M3:
        return static_cast<float>(static_cast<const __nv_fp8_e4m3*>(from)[i]);
    case CUDA_R_8F_E5M2:
        return static_cast<float>(static_cast<const __nv_fp8_e5m2*>(from)[i]);
    default:
        return static_cast<const float*>(from)[i];
    }
}

void store(void* to, cudaDataType_t type, std::size_t i, float value) {
    if (type == CUDA_R_16BF)
        static_cast<__nv_bfloat16*>(to)[i] = __float2bfloat16(value);
    else if (type == CUDA_R_16F)
        static_cast<__half*>(to)[i] = __float2half(value);
    else
        static_cast<float*>(to)[i] = value;
}

float rounded_to_tf32(float value) { // 10 bits of mantissa, to nearest even
    const auto word = std::bit_cast<std::uint32_t>(value);
    if ((word & 0x7f800000u) == 0x7f800000u) return value;
    return std::bit_cast<float>((word + 0xfffu + ((word >> 13) & 1u)) & ~0x1fffu);
}

// The table "supported data types" of cublasLtMatmul, as far as the house uses it.
bool types_fit(const Problem& problem) {
    const auto [a, b, c, d] = std::tuple(problem.a.type, problem.b.type, problem.c.type, problem.d.type);
    const bool full = problem.operation.compute == CUBLAS_COMPUTE_32F;
    const bool tf32 = problem.operation.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    if (problem.operation.scale != CUDA_R_32F || c != d) return false;
    if (a == CUDA_R_32F && b == CUDA_R_32F) return d == CUDA_R_32F && (full || tf32);
    if (full && a == CUDA_R_16F && b == CUDA_R_16F) return d == CUDA_R_32F || d == CUDA_R_16F;
    if (!full || (d != CUDA_R_32F && d != CUDA_R_16BF)) return false;
    if (a == CUDA_R_16BF && b == CUDA_R_16BF) return true;
    return is_fp8(a) && is_fp8(b) && !(a == CUDA_R_8F_E5M2 && b == CUDA_R_8F_E5M2);
}

// A bias has the result's dtype, but bf16 in an fp8 product with an f32 result; that must be said.
bool bias_fits(const Problem& problem) {
    const Operation& operation = problem.operation;
    if (operation.epilogue == CUBLASLT_EPILOGUE_DEFAULT) return true;
    if (operation.epilogue != CUBLASLT_EPILOGUE_BIAS) return false;
    const cudaDataType_t wanted = is_fp8(problem.a.type) ? CUDA_R_16BF : problem.d.type;
    const std::int32_t found = operation.bias_type == -1 ? problem.d.type : operation.bias_type;
    return found == wanted && operation.bias != nullptr && reinterpret_cast<std::uintptr_t>(operation.bias) % 16 == 0 &&
           bytes_of(wanted) > 1;
}

// The first operand transposed, the second not, and whole vectors of 16 bytes along each dim but the last.
bool fp8_fits(const Problem& problem) {
    const Operation& operation = problem.operation;
    if (!is_fp8(problem.a.type)) return operation.scale_a == nullptr && operation.scale_b == nullptr;
    return tessera::emulation::settings().capability >= 89 && operation.transpose_a == CUBLAS_OP_T &&
           operation.transpose_b == CUBLAS_OP_N && problem.a.stride % 16 == 0 && problem.b.stride % 16 == 0 &&
           problem.terms() % 16 == 0 && problem.d.rows % 16 == 0;
}

cublasStatus_t fits(const Problem& problem) {
    const auto [operation, a, b, c, d] = problem;
    for (const Layout& layout : {a, b, c, d})
        if (layout.rows == 0 || layout.columns == 0 || layout.stride < static_cast<std::int64_t>(layout.rows) ||
            std::max(layout.rows, layout.columns) > std::numeric_limits<int>::max())
            return CUBLAS_STATUS_INVALID_VALUE;
    const bool plain_a = operation.transpose_a == CUBLAS_OP_N, plain_b = operation.transpose_b == CUBLAS_OP_N;
    if ((plain_a ? a.rows : a.columns) != d.rows || (plain_b ? b.columns : b.rows) != d.columns ||
        (plain_b ? b.rows : b.columns) != problem.terms() || c.rows != d.rows || c.columns != d.columns)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!types_fit(problem) || !bias_fits(problem) || !fp8_fits(problem)) return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}

// Of all that an algorithm depends on; the bias may lie elsewhere in each call.
std::uint64_t hash_of(const Problem& problem) {
    std::uint64_t hash = 0xcbf29ce484222325u;
    const auto mix = [&](auto number) { hash = (hash ^ static_cast<std::uint64_t>(number)) * 0x100000001b3u; };
    const Operation& operation = problem.operation;
    mix(operation.compute);
    mix(operation.transpose_a);
    mix(operation.transpose_b);
    mix(operation.epilogue);
    mix(operation.bias_type);
    for (const Layout& layout : {problem.a, problem.b, problem.c, problem.d}) {
        mix(layout.type);
        mix(layout.rows);
        mix(layout.columns);
        mix(layout.stride);
    }
    return hash;
}

// op(matrix), column by column without gaps.
std::vector<float> gathered(const void* matrix, const Layout& layout, bool transposed, bool tf32) {
    const std::uint64_t rows = transposed ? layout.columns : layout.rows;
    const std::uint64_t columns = transposed ? layout.rows : layout.columns;
    std::vector<float> result(rows * columns);
    const auto stride = static_cast<std::uint64_t>(layout.stride);
    for (std::uint64_t column = 0; column < columns; ++column)
        for (std::uint64_t row = 0; row < rows; ++row) {
            const float value = load(matrix, layout.type, transposed ? row * stride + column : column * stride + row);
            result[column * rows + row] = tf32 ? rounded_to_tf32(value) : value;
        }
    return result;
}

struct Memory {
    const void *a, *b, *c;
    void *d, *workspace;
};

// sums = a[:, begin:end] b[begin:end, :]
void multiply(const Problem& problem, const std::vector<float>& a, const std::vector<float>& b, std::uint64_t begin,
              std::uint64_t end, float* sums) {
    const auto [m, n, k] = std::tuple(static_cast<int>(problem.d.rows), static_cast<int>(problem.d.columns),
                                      static_cast<int>(problem.terms()));
    cblas_sgemm(CblasColMajor, CblasNoTrans, CblasNoTrans, m, n, static_cast<int>(end - begin), 1.0f,
                a.data() + begin * problem.d.rows, m, b.data() + begin, k, 0.0f, sums, m);
}

void run(const Problem& problem, const Algorithm& algorithm, float alpha, float beta, const Memory& memory) {
    const Operation& operation = problem.operation;
    const bool tf32 = operation.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    const auto a = gathered(memory.a, problem.a, operation.transpose_a != CUBLAS_OP_N, tf32);
    const auto b = gathered(memory.b, problem.b, operation.transpose_b != CUBLAS_OP_N, tf32);
    const std::uint64_t rows = problem.d.rows, count = rows * problem.d.columns, terms = problem.terms();
    std::vector<float> sums(count);
    if (algorithm.kind == Kind::halves) {
        auto* parts = static_cast<float*>(memory.workspace);
        multiply(problem, a, b, 0, terms / 2, parts);
        multiply(problem, a, b, terms / 2, terms, parts + count);
        std::transform(parts, parts + count, parts + count, sums.begin(), std::plus<>());
    } else {
        multiply(problem, a, b, 0, terms, sums.data());
    }
    alpha *= (operation.scale_a != nullptr ? *operation.scale_a : 1) *
             (operation.scale_b != nullptr ? *operation.scale_b : 1);
    const auto bias_type =
        static_cast<cudaDataType_t>(operation.bias_type == -1 ? problem.d.type : operation.bias_type);
    for (std::uint64_t i = 0; i < count; ++i) {
        const std::uint64_t row = i % rows, column = i / rows;
        float value = alpha * sums[i];
        if (beta != 0)
            value += beta * load(memory.c, problem.c.type, column * static_cast<std::uint64_t>(problem.c.stride) + row);
        if (operation.epilogue == CUBLASLT_EPILOGUE_BIAS) value += load(operation.bias, bias_type, row);
        store(memory.d, problem.d.type, column * static_cast<std::uint64_t>(problem.d.stride) + row, value);
    }
}

bool lies_on_device(const void* pointer, std::size_t bytes, std::size_t alignment) {
    const tessera::emulation::Memory memory = tessera::emulation::find_memory(pointer);
    const auto offset = static_cast<std::size_t>(static_cast<const char*>(pointer) - memory.start);
    return memory.device >= 0 && memory.bytes - offset >= bytes &&
           reinterpret_cast<std::uintptr_t>(pointer) % alignment == 0;
}

bool operands_fit(const Problem& problem, const Algorithm& algorithm, const Memory& memory) {
    const Operation& operation = problem.operation;
    if (operation.epilogue == CUBLASLT_EPILOGUE_BIAS &&
        !lies_on_device(operation.bias, problem.d.rows * (is_fp8(problem.a.type) ? 2 : bytes_of(problem.d.type)), 16))
        return false;
    for (const float* scale : {operation.scale_a, operation.scale_b})
        if (scale != nullptr && !lies_on_device(scale, sizeof *scale, sizeof *scale)) return false;
    return lies_on_device(memory.a, bytes_of(problem.a), algorithm.a_alignment) &&
           lies_on_device(memory.b, bytes_of(problem.b), algorithm.b_alignment) &&
           lies_on_device(memory.c, bytes_of(problem.c), algorithm.c_alignment) &&
           lies_on_device(memory.d, bytes_of(problem.d), algorithm.d_alignment);
}

} // namespace

extern "C" {

const char* cublasLtGetStatusString(cublasStatus_t status) {
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "success";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "the functionality requested is not supported";
    default:
        return "the product failed to execute";
    }
}

std::size_t cublasLtGetVersion() { return CUBLAS_VERSION; }

// The handle is never looked into. One thread, so that sums do not depend on the machine's number of cores.
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
    openblas_set_num_threads(1);
    return make(handle, Wish());
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return destroy<Wish>(handle); }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* handle, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
    return make(handle, Operation{.compute = compute, .scale = scale});
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t handle) { return destroy<Operation>(handle); }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t handle, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, std::size_t bytes) {
    auto& operation = behind<Operation>(handle);
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return assign(operation.transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return assign(operation.transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return assign(operation.epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return assign(operation.bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        return assign(operation.bias_type, value, bytes);
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
        return assign(operation.scale_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER:
        return assign(operation.scale_b, value, bytes);
    default:
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* handle, cudaDataType type, std::uint64_t rows,
                                          std::uint64_t columns, std::int64_t stride) {
    return make(handle, Layout{type, rows, columns, stride});
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t handle) { return destroy<Layout>(handle); }

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* handle) { return make(handle, Wish()); }
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t handle) { return destroy<Wish>(handle); }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t handle,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    std::size_t bytes) {
    auto& wish = behind<Wish>(handle);
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return assign(wish.workspace_bytes, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return assign(wish.reductions, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        return assign(wish.a_alignment, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        return assign(wish.b_alignment, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        return assign(wish.c_alignment, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return assign(wish.d_alignment, value, bytes);
    default:
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

// Two algorithms at most; the one in halves comes first where there are many terms for few sums.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t handle, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* returned) {
    if (wanted <= 0) return CUBLAS_STATUS_INVALID_VALUE;
    *returned = 0;
    const Problem problem{behind<Operation>(operation), behind<Layout>(a), behind<Layout>(b), behind<Layout>(c),
                          behind<Layout>(d)};
    if (const cublasStatus_t status = fits(problem); status != CUBLAS_STATUS_SUCCESS) return status;
    const auto& wish = behind<Wish>(handle);
    if (is_fp8(problem.a.type) && std::min({wish.a_alignment, wish.b_alignment, wish.d_alignment}) < 16)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    const std::uint64_t count = problem.d.rows * problem.d.columns, halves_bytes = 2 * count * sizeof(float);
    std::vector<Kind> kinds{Kind::whole};
    if ((wish.reductions & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) != 0 && halves_bytes <= wish.workspace_bytes &&
        problem.terms() >= 2)
        kinds.insert(problem.terms() > count ? kinds.begin() : kinds.end(), Kind::halves);
    for (int i = 0; i < std::min(wanted, static_cast<int>(kinds.size())); ++i) {
        const Kind kind = kinds[static_cast<std::size_t>(i)];
        const Algorithm algorithm{hash_of(problem),
                                  kind == Kind::halves ? halves_bytes : 0,
                                  wish.a_alignment,
                                  wish.b_alignment,
                                  wish.c_alignment,
                                  wish.d_alignment,
                                  kind};
        cublasLtMatmulHeuristicResult_t& result = results[(*returned)++];
        result = {};
        std::memcpy(result.algo.data, &algorithm, sizeof algorithm);
        result.workspaceSize = algorithm.workspace_bytes;
        result.state = CUBLAS_STATUS_SUCCESS;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* chosen, void* workspace,
                              std::size_t workspace_bytes, cudaStream_t stream) {
    const Problem problem{behind<Operation>(operation), behind<Layout>(a_layout), behind<Layout>(b_layout),
                          behind<Layout>(c_layout), behind<Layout>(d_layout)};
    if (const cublasStatus_t status = fits(problem); status != CUBLAS_STATUS_SUCCESS) return status;
    Algorithm algorithm;
    std::memcpy(&algorithm, chosen->data, sizeof algorithm);
    const Memory memory{a, b, c, d, workspace};
    if (algorithm.problem != hash_of(problem) || workspace_bytes < algorithm.workspace_bytes ||
        (workspace_bytes > 0 && !lies_on_device(workspace, workspace_bytes, 256)) ||
        !operands_fit(problem, algorithm, memory))
        return CUBLAS_STATUS_INVALID_VALUE;
    const auto work = [=, factor = *static_cast<const float*>(alpha), old = *static_cast<const float*>(beta)] {
        tessera::emulation::slow_down(algorithm.kind == Kind::halves ? "halves" : "whole", 10);
        run(problem, algorithm, factor, old, memory);
    };
    return tessera::emulation::submit(stream, work, "cublasLtMatmul", false) == cudaSuccess
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_EXECUTION_FAILED;
}

} // extern "C"
