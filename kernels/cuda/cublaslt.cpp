// SPDX-License-Identifier: Apache-2.0
// Products by cuBLASLt. The library's matrices are stored column by column: what lies row by row is a transposed matrix
// to it, so c' = b'' a'' is asked for, with a and b in each other's place.
#include "kernels/cuda/cublaslt.hpp"

#include "kernels/cuda/device.hpp"
#include "kernels/error.hpp"
#include "kernels/matmul_check.hpp"
#include "kernels/memory.hpp"

#include <cstring>
#include <cublasLt.h>
#include <fmt/format.h>
#include <limits>
#include <map>
#include <span>
#include <tuple>
#include <vector>

namespace tessera::cuda {
namespace {

constexpr std::uint32_t vector_alignment = 16; // bytes: what the library's fast kernels want of every pointer
constexpr int tuned_algorithms = 8;            // tried where the stream is to tune
constexpr int timed_runs = 5;

// One owner for each of the library's objects.
struct Destroy {
    void operator()(cublasLtContext* handle) const { cublasLtDestroy(handle); }
    void operator()(cublasLtMatmulDescOpaque_t* operation) const { cublasLtMatmulDescDestroy(operation); }
    void operator()(cublasLtMatrixLayoutOpaque_t* layout) const { cublasLtMatrixLayoutDestroy(layout); }
    void operator()(cublasLtMatmulPreferenceOpaque_t* wish) const { cublasLtMatmulPreferenceDestroy(wish); }
    void operator()(CUevent_st* event) const { cudaEventDestroy(event); }
};
template <class T> using Owner = std::unique_ptr<T, Destroy>;

void check_status(cublasStatus_t status, const char* call, const Matmul& product) {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    throw SystemError(fmt::format("{} for the product of {} failed: {}", call, kernels::text_of(product),
                                  cublasLtGetStatusString(status)));
}

cudaDataType_t library_type(DType dtype) {
    switch (dtype) {
    case DType::f32:
        return CUDA_R_32F;
    case DType::bf16:
        return CUDA_R_16BF;
    case DType::f16:
        return CUDA_R_16F;
    case DType::f8e4m3:
        return CUDA_R_8F_E4M3;
    case DType::f8e5m2:
        return CUDA_R_8F_E5M2;
    case DType::i32:
        break;
    }
    throw InternalError(fmt::format("matmul: no factors of {}", name_of(dtype)));
}

template <class Value> void set(const Owner<cublasLtMatmulDescOpaque_t>& operation,
                                cublasLtMatmulDescAttributes_t attribute, Value value, const Matmul& product) {
    check_status(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof value),
                 "cublasLtMatmulDescSetAttribute", product);
}

template <class Value> void set(const Owner<cublasLtMatmulPreferenceOpaque_t>& wish,
                                cublasLtMatmulPreferenceAttributes_t attribute, Value value, const Matmul& product) {
    check_status(cublasLtMatmulPreferenceSetAttribute(wish.get(), attribute, &value, sizeof value),
                 "cublasLtMatmulPreferenceSetAttribute", product);
}

// A matrix that is stored row by row, as the library sees it.
Owner<cublasLtMatrixLayoutOpaque_t> layout(DType dtype, std::int64_t rows, std::int64_t columns,
                                           const Matmul& product) {
    cublasLtMatrixLayout_t made = nullptr;
    check_status(cublasLtMatrixLayoutCreate(&made, library_type(dtype), static_cast<std::uint64_t>(columns),
                                            static_cast<std::uint64_t>(rows), columns),
                 "cublasLtMatrixLayoutCreate", product);
    return Owner<cublasLtMatrixLayoutOpaque_t>(made);
}

// Two classes only, so that where a plan puts its tensors (at multiples of 64 bytes) changes neither the algorithm nor
// a bit of the result.
std::uint32_t alignment(const void* pointer, DType dtype) {
    const bool whole = reinterpret_cast<std::uintptr_t>(pointer) % vector_alignment == 0;
    return whole ? vector_alignment : static_cast<std::uint32_t>(bytes_of(dtype));
}

// What an algorithm was chosen for.
struct Key {
    Matmul product;
    std::uint32_t a_alignment, b_alignment, c_alignment;
    auto operator<=>(const Key&) const = default;
};

struct Prepared {
    Owner<cublasLtMatmulDescOpaque_t> operation;
    Owner<cublasLtMatrixLayoutOpaque_t> a, b, c;
    cublasLtMatmulAlgo_t algorithm{};
};

// Of one stream.
struct Products {
    Owner<cublasLtContext> library;
    std::map<Key, Prepared> prepared;
};

Products& products_of(CudaStream& stream, const Matmul& product) {
    std::shared_ptr<void>& kept = stream.state().products;
    if (!kept) {
        cublasLtHandle_t handle = nullptr;
        check_status(cublasLtCreate(&handle), "cublasLtCreate", product);
        kept = std::make_shared<Products>(Owner<cublasLtContext>(handle), std::map<Key, Prepared>());
    }
    return *static_cast<Products*>(kept.get());
}

// A fused activation would be one more epilogue here (GELU_AUX_BIAS, which keeps what DGELU wants for the gradient).
Prepared describe(const Matmul& product, bool tf32) {
    Prepared described;
    const bool fast = tf32 && product.input == DType::f32;
    cublasLtMatmulDesc_t operation = nullptr;
    check_status(
        cublasLtMatmulDescCreate(&operation, fast ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F),
        "cublasLtMatmulDescCreate", product);
    described.operation.reset(operation);
    const auto transposed = [](bool yes) { return static_cast<std::int32_t>(yes ? CUBLAS_OP_T : CUBLAS_OP_N); };
    set(described.operation, CUBLASLT_MATMUL_DESC_TRANSA, transposed(product.transpose_b), product);
    set(described.operation, CUBLASLT_MATMUL_DESC_TRANSB, transposed(product.transpose_a), product);
    if (product.bias) {
        set(described.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<std::uint32_t>(CUBLASLT_EPILOGUE_BIAS),
            product);
        set(described.operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE,
            static_cast<std::int32_t>(library_type(bias_dtype(product))), product);
    }
    const auto [m, n, k] = std::tuple(product.m, product.n, product.k);
    described.a = product.transpose_a ? layout(product.input, k, m, product) : layout(product.input, m, k, product);
    const DType input_b = product.input_b();
    described.b = product.transpose_b ? layout(input_b, n, k, product) : layout(input_b, k, n, product);
    described.c = layout(product.output, m, n, product);
    return described;
}

// What varies from call to call.
void point_to(const Prepared& prepared, const Matmul& product, const ProductOperands& operands) {
    if (product.bias) set(prepared.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.bias, product);
    if (operands.scale_a == nullptr) return;
    set(prepared.operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, operands.scale_b, product);
    set(prepared.operation, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, operands.scale_a, product);
}

// d = a' b' [+ bias] [+ c], d being c or, while algorithms are timed, other memory.
cublasStatus_t run(CudaStream& stream, const Products& products, const Prepared& prepared, const Matmul& product,
                   const ProductOperands& operands, void* d, const cublasLtMatmulAlgo_t& algorithm) {
    const float alpha = 1, beta = product.accumulate ? 1 : 0;
    return cublasLtMatmul(products.library.get(), prepared.operation.get(), &alpha, operands.b, prepared.b.get(),
                          operands.a, prepared.a.get(), &beta, operands.c, prepared.c.get(), d, prepared.c.get(),
                          &algorithm, operands.workspace, static_cast<std::size_t>(operands.workspace_bytes),
                          stream.state().stream);
}

// The library's guesses, best first.
std::vector<cublasLtMatmulHeuristicResult_t> candidates(const Products& products, const Prepared& prepared,
                                                        const Key& key, const ProductOperands& operands, int count) {
    cublasLtMatmulPreference_t made = nullptr;
    check_status(cublasLtMatmulPreferenceCreate(&made), "cublasLtMatmulPreferenceCreate", key.product);
    const Owner<cublasLtMatmulPreferenceOpaque_t> wish(made);
    set(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(operands.workspace_bytes),
        key.product);
    // Where k is split, partial sums are kept in f32 and added in a pass of their own: always in the same order.
    set(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE), key.product);
    set(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.b_alignment, key.product);
    set(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.a_alignment, key.product);
    set(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.c_alignment, key.product);
    set(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.c_alignment, key.product);
    std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<std::size_t>(count));
    int returned = 0;
    check_status(cublasLtMatmulAlgoGetHeuristic(products.library.get(), prepared.operation.get(), prepared.b.get(),
                                                prepared.a.get(), prepared.c.get(), prepared.c.get(), wish.get(), count,
                                                found.data(), &returned),
                 "cublasLtMatmulAlgoGetHeuristic", key.product);
    found.resize(static_cast<std::size_t>(returned));
    std::erase_if(found, [](const auto& candidate) { return candidate.state != CUBLAS_STATUS_SUCCESS; });
    if (found.empty()) check_status(CUBLAS_STATUS_NOT_SUPPORTED, "cublasLtMatmulAlgoGetHeuristic", key.product);
    return found;
}

Owner<CUevent_st> make_event() {
    cudaEvent_t event = nullptr;
    check(cudaEventCreate(&event), "cudaEventCreate");
    return Owner<CUevent_st>(event);
}

// Milliseconds of some runs after a first one, or infinity for an algorithm that does not run.
float time_of(CudaStream& stream, const cublasLtMatmulAlgo_t& algorithm, const auto& run_once) {
    const Owner<CUevent_st> begin = make_event(), end = make_event();
    if (run_once(algorithm) != CUBLAS_STATUS_SUCCESS) return std::numeric_limits<float>::infinity();
    check(cudaEventRecord(begin.get(), stream.state().stream), "cudaEventRecord");
    for (int i = 0; i < timed_runs; ++i)
        run_once(algorithm);
    check(cudaEventRecord(end.get(), stream.state().stream), "cudaEventRecord");
    check(cudaEventSynchronize(end.get()), "cudaEventSynchronize");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "cudaEventElapsedTime");
    return milliseconds;
}

// The candidate of the least time, the earlier of two equals. `time` is asked only where there is a choice.
const cublasLtMatmulAlgo_t& choose(std::span<const cublasLtMatmulHeuristicResult_t> candidates, const auto& time) {
    if (candidates.size() == 1) return candidates[0].algo;
    const cublasLtMatmulAlgo_t* best = &candidates[0].algo;
    float least = std::numeric_limits<float>::infinity();
    for (const auto& candidate : candidates) {
        const float milliseconds = time(candidate.algo);
        if (milliseconds >= least) continue;
        least = milliseconds;
        best = &candidate.algo;
    }
    return *best;
}

// An algorithm can be kept as it lies in memory, for the same version of the library (cuBLAS, cublasLtMatmulAlgo_t).
ChoiceWords words_of(const cublasLtMatmulAlgo_t& algorithm) {
    ChoiceWords words(sizeof algorithm / sizeof(std::int64_t));
    static_assert(sizeof algorithm % sizeof(std::int64_t) == 0);
    std::memcpy(words.data(), &algorithm, sizeof algorithm);
    return words;
}

ChoiceWords words_of(const Key& key) {
    ChoiceWords words = asked_words(key.product);
    words.insert(words.end(), {key.a_alignment, key.b_alignment, key.c_alignment});
    return words;
}

Prepared prepare(CudaStream& stream, const Products& products, const Key& key, const ProductOperands& operands) {
    CudaStream::State& state = stream.state();
    Prepared prepared = describe(key.product, stream.state().options.tf32);
    if (const auto at = state.settled.find(words_of(key)); at != state.settled.end()) {
        if (at->second.size() * sizeof(std::int64_t) != sizeof prepared.algorithm)
            throw SystemError(
                fmt::format("a settled choice is no algorithm for the product of {}", kernels::text_of(key.product)));
        std::memcpy(&prepared.algorithm, at->second.data(), sizeof prepared.algorithm);
        state.chosen[at->first] = at->second;
        return prepared;
    }
    point_to(prepared, key.product, operands); // the library looks at its alignment
    const bool tune = stream.state().options.tune && !state.is_settled;
    const auto found = candidates(products, prepared, key, operands, tune ? tuned_algorithms : 1);
    Buffer other; // what is added to must not change while it is timed: the one time that a product takes memory
    if (found.size() > 1 && key.product.accumulate)
        other = allocate(stream, key.product.m * key.product.n * bytes_of(key.product.output));
    void* d = other.bytes() > 0 ? other.data() : operands.c;
    prepared.algorithm = choose(found, [&](const cublasLtMatmulAlgo_t& algorithm) {
        return time_of(stream, algorithm, [&](const cublasLtMatmulAlgo_t& timed) {
            return run(stream, products, prepared, key.product, operands, d, timed);
        });
    });
    if (tune) state.chosen[words_of(key)] = words_of(prepared.algorithm);
    return prepared;
}

} // namespace

ChoiceWords asked_words(const Matmul& product) {
    constexpr std::int64_t products = 200; // those of convolutions and attention begin below
    return {products,
            product.m,
            product.n,
            product.k,
            product.transpose_a,
            product.transpose_b,
            static_cast<std::int64_t>(product.input),
            static_cast<std::int64_t>(product.output),
            product.bias,
            product.accumulate};
}

std::size_t products_version() { return cublasLtGetVersion(); }

void multiply(CudaStream& stream, const Matmul& product, const ProductOperands& operands) {
    Products& products = products_of(stream, product);
    const Key key{product, alignment(operands.a, product.input), alignment(operands.b, product.input_b()),
                  alignment(operands.c, product.output)};
    auto at = products.prepared.find(key);
    if (at == products.prepared.end())
        at = products.prepared.emplace(key, prepare(stream, products, key, operands)).first;
    point_to(at->second, product, operands);
    check_status(run(stream, products, at->second, product, operands, operands.c, at->second.algorithm),
                 "cublasLtMatmul", product);
}

} // namespace tessera::cuda
