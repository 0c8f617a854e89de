// SPDX-License-Identifier: Apache-2.0
// Products of 8-bit factors: against a plain double loop over the same factors, and the three products of a linear
// layer against those of what was quantized.
#include "kernels/error.hpp"
#include "kernels/matmul.hpp"
#include "kernels/matmul_check.hpp"
#include "kernels/quantize.hpp"
#include "tests/support/device.hpp"

#include <limits>
#include <optional>

using namespace tessera;

namespace matmul_f8_test {

template <class Device> class MatmulsOf8Bits : public testing::Test {};
TYPED_TEST_SUITE(MatmulsOf8Bits, Devices, DeviceNames);

namespace {

struct Factors {
    Sample a, b, scale_a, scale_b;
};

// c = a b^T; the workspace is asked for once.
template <class Device> class Multiplier {
public:
    Device on;

    void operator()(const Matmul& product, const View& a, const View& b, const ConstView& bias, const View& c,
                    const MatmulScales& scales) {
        const std::int64_t bytes = kernels::matmul_workspace_bytes(on.stream(), product);
        if (bytes > memory_.bytes()) memory_ = allocate(on.stream(), bytes);
        kernels::matmul(on.stream(), product, a, b, bias, c, View(memory_.data(), {bytes / 4}, DType::f32), scales);
    }

private:
    Buffer memory_;
};

Matmul product_of(std::int64_t m, std::int64_t n, std::int64_t k, DType input, DType output) {
    return {.m = m, .n = n, .k = k, .transpose_b = true, .input = input, .output = output};
}

Sample scalar(double value) {
    Sample one(Shape{1}, DType::f32);
    one.set(0, value);
    return one;
}

struct Sums {
    std::vector<double> values, magnitudes;
};

Sums plain_sums(const Matmul& product, const Factors& factors, const Sample& bias, const Sample& c) {
    Sums sums;
    const double factor = factors.scale_a[0] * factors.scale_b[0];
    for (std::int64_t i = 0; i < product.m; ++i)
        for (std::int64_t j = 0; j < product.n; ++j) {
            double sum = 0, magnitude = 0;
            const auto add = [&](double term) {
                sum += term;
                magnitude += std::abs(term);
            };
            if (product.accumulate) add(c[i * product.n + j]);
            if (product.bias) add(bias[j]);
            for (std::int64_t l = 0; l < product.k; ++l)
                add(factor * factors.a[i * product.k + l] * factors.b[j * product.k + l]);
            sums.values.push_back(sum);
            sums.magnitudes.push_back(magnitude);
        }
    return sums;
}

// |found - expected| / |expected|, of whole matrices.
double distance(const Sample& found, const Sample& expected) {
    double difference = 0, norm = 0;
    for (std::int64_t i = 0; i < found.count(); ++i) {
        difference += (found[i] - expected[i]) * (found[i] - expected[i]);
        norm += expected[i] * expected[i];
    }
    return std::sqrt(difference / norm);
}

// What quantize makes of x (R, C).
struct Quantization {
    Sample y, transposed, amax, scale;
    Quantization(const Shape& shape, DType dtype)
        : y(shape, dtype), transposed(Shape{shape[1], shape[0]}, dtype), amax(Shape{1}, DType::f32),
          scale(Shape{1}, DType::f32) {}
};

} // namespace

TYPED_TEST(MatmulsOf8Bits, EqualThePlainSum) {
    Multiplier<TypeParam> multiply;
    const std::int64_t sizes[][3] = {{16, 16, 16}, {1, 32, 48}, {65, 48, 320}, {40, 144, 64}, {0, 16, 16}, {7, 16, 0}};
    for (const DType input : {DType::f8e4m3, DType::f8e5m2})
        for (const DType output : {DType::f32, DType::bf16})
            for (const auto& [m, n, k] : sizes)
                for (const int flags : {0, 1, 2, 3}) {
                    Matmul product = product_of(m, n, k, input, output);
                    product.bias = (flags & 1) != 0;
                    product.accumulate = (flags & 2) != 0;
                    const Factors factors{Sample(Shape{m, k}, input, 1), Sample(Shape{n, k}, DType::f8e4m3, 2),
                                          scalar(0.37), scalar(3.1)};
                    const Sample bias(Shape{n}, DType::f32, 3);
                    Sample c(Shape{m, n}, output, 4);
                    for (std::int64_t i = 0; i < c.count() && !product.accumulate; ++i)
                        c.set(i, std::numeric_limits<double>::quiet_NaN());
                    const Sums expected = plain_sums(product, factors, bias, c);
                    const auto run = [&] {
                        auto& on = multiply.on;
                        multiply(product, on(factors.a), on(factors.b), product.bias ? on(bias) : View(), on(c),
                                 {on(factors.scale_a), on(factors.scale_b)});
                        on.finish();
                    };
                    run();
                    Tolerance allowed = tolerance(input, Kind::product); // and of the result, and of the bias
                    allowed.relative += tolerance(DType::bf16, Kind::product).relative *
                                        (output == DType::bf16 || product.bias ? 1 : 0);
                    EXPECT_TRUE(close_to(c, expected.values, allowed, expected.magnitudes))
                        << kernels::text_of(product);
                }
}

// y = x w^T, dx = dy w and dw = dy^T x, each over what quantize gives.
TYPED_TEST(MatmulsOf8Bits, AreNearTheProductsOfALinearLayer) {
    constexpr std::int64_t tokens = 48, in = 80, out = 64;
    Multiplier<TypeParam> multiply;
    auto& on = multiply.on;
    const Sample x(Shape{tokens, in}, DType::bf16, 1), w(Shape{out, in}, DType::f32, 2, -0.1, 0.1);
    const Sample dy(Shape{tokens, out}, DType::bf16, 3, -1e-4, 1e-4);
    const Quantization x8(x.view().shape, DType::f8e4m3), w8(w.view().shape, DType::f8e4m3);
    const Quantization dy8(dy.view().shape, DType::f8e5m2);
    const Sample y(Shape{tokens, out}, DType::f32), dx(Shape{tokens, in}, DType::f32), dw(Shape{out, in}, DType::f32);
    const auto quantize = [&](const Sample& from, const Quantization& to) {
        kernels::quantize(on.stream(), on(from), {on(to.y), on(to.transposed), on(to.amax), on(to.scale)});
    };
    quantize(x, x8);
    quantize(w, w8);
    quantize(dy, dy8);
    multiply(product_of(tokens, out, in, DType::f8e4m3, DType::f32), on(x8.y), on(w8.y), {}, on(y),
             {on(x8.scale), on(w8.scale)});
    multiply(product_of(tokens, in, out, DType::f8e5m2, DType::f32), on(dy8.y), on(w8.transposed), {}, on(dx),
             {on(dy8.scale), on(w8.scale)});
    multiply(product_of(out, in, tokens, DType::f8e5m2, DType::f32), on(dy8.transposed), on(x8.transposed), {}, on(dw),
             {on(dy8.scale), on(x8.scale)});
    on.finish();

    const auto expect_near = [&](const Sample& found, DType dtype, const auto& a, const auto& b, std::int64_t terms) {
        const std::int64_t columns = found.view().shape[1];
        Sample exact(found.view().shape, DType::f32);
        for (std::int64_t i = 0; i < found.count(); ++i) {
            double sum = 0;
            for (std::int64_t l = 0; l < terms; ++l)
                sum += a(i / columns, l) * b(l, i % columns);
            exact.set(i, sum);
        }
        EXPECT_LE(distance(found, exact), tolerance(dtype, Kind::low_precision).relative);
    };
    const auto at = [](const Sample& sample) {
        return [&](std::int64_t i, std::int64_t j) { return sample[i * sample.view().shape[1] + j]; };
    };
    const auto turned = [](const Sample& sample) {
        return [&](std::int64_t i, std::int64_t j) { return sample[j * sample.view().shape[1] + i]; };
    };
    expect_near(y, DType::f8e4m3, at(x), turned(w), in);
    expect_near(dx, DType::f8e5m2, at(dy), at(w), out);
    expect_near(dw, DType::f8e5m2, turned(dy), at(x), tokens);
}

TYPED_TEST(MatmulsOf8Bits, ThatDoNotFitAreRefused) {
    EXPECT_TRUE(kernels::matmul_fits_f8({.m = 5, .n = 16, .k = 32, .transpose_b = true}));
    EXPECT_TRUE(kernels::matmul_has_f8(TypeParam().stream()));
    EXPECT_FALSE(kernels::matmul_fits_f8({.m = 5, .n = 24, .k = 32, .transpose_b = true}));
    EXPECT_FALSE(kernels::matmul_fits_f8({.m = 5, .n = 16, .k = 33, .transpose_b = true}));
    EXPECT_FALSE(kernels::matmul_fits_f8({.m = 5, .n = 16, .k = 32}));
    EXPECT_FALSE(kernels::matmul_fits_f8({.m = 5, .n = 16, .k = 32, .transpose_a = true, .transpose_b = true}));
    Multiplier<TypeParam> multiply;
    auto& on = multiply.on;
    const Sample a(Shape{33, 32}, DType::f8e4m3), b(Shape{33, 32}, DType::f8e4m3), c(Shape{33, 32}, DType::f32);
    const Sample scale(Shape{1}, DType::f32), none(Shape{0}, DType::f32);
    const auto run = [&](const Matmul& product, std::int64_t first = 0, const Sample* scales = nullptr) {
        const auto part = [&](const Sample& whole, std::int64_t count, DType dtype) {
            return View(static_cast<std::byte*>(on(whole).memory()) + first, {count}, dtype);
        };
        const View one = on(scales == nullptr ? scale : *scales);
        multiply(product, part(a, product.m * product.k, product.input),
                 part(b, product.n * product.k, product.input_b()), {}, on(c), {one, one});
    };
    const Matmul right = product_of(33, 32, 32, DType::f8e4m3, DType::f32);
    EXPECT_NO_THROW(run(right));
    EXPECT_THROW(run(right, 0, &none), InternalError);
    Matmul wrong = right;
    wrong.transpose_b = false;
    EXPECT_THROW(run(wrong), InternalError);
    wrong = right;
    wrong.m = 32, wrong.n = 33;
    EXPECT_THROW(run(wrong), InternalError);
    wrong.n = 32;
    EXPECT_THROW(run(wrong, 1), InternalError); // c is too large, and a and b do not start at 16 bytes
    wrong.input = DType::f8e5m2;
    wrong.output = DType::i32;
    EXPECT_THROW(run(wrong), InternalError);
    on.finish();
}

} // namespace matmul_f8_test
