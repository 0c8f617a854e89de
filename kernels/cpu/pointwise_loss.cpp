// SPDX-License-Identifier: Apache-2.0
// Pointwise losses on the CPU, row after row, sixteen numbers at a time.
#include "kernels/pointwise_loss.hpp"

#include "kernels/cpu/loops.hpp"
#include "kernels/cpu/vector_math.hpp"

namespace tessera::kernels {
namespace {

using simd::Floats;

constexpr std::int64_t elements_per_thread = 65536;

struct ValueAndSlope {
    Floats value, slope;
};

struct Squared {
    explicit Squared(const PointwiseLoss&) {}
    TESSERA_INLINE ValueAndSlope operator()(Floats y, Floats t) const {
        const Floats error = y - t;
        return {error * error, 2.0f * error};
    }
};

struct Absolute {
    explicit Absolute(const PointwiseLoss&) {}
    TESSERA_INLINE ValueAndSlope operator()(Floats y, Floats t) const {
        const Floats error = y - t, one = simd::all(1.0f);
        return {simd::magnitude(error), error > 0.0f ? one : error < 0.0f ? -one : error}; // NaN stays itself
    }
};

struct Huber {
    explicit Huber(const PointwiseLoss& loss) : delta(loss.delta) {}
    float delta;
    TESSERA_INLINE ValueAndSlope operator()(Floats y, Floats t) const {
        const Floats error = y - t, size = simd::magnitude(error), limit = simd::all(delta);
        const Floats outside = (size - 0.5f * delta) * delta, inside = 0.5f * error * error;
        return {size > limit ? outside : inside, size > limit ? simd::with_sign(limit, error) : error};
    }
};

struct Binary {
    explicit Binary(const PointwiseLoss& loss) : more(loss.positive_weight - 1) {}
    float more; // weight of a positive beyond one
    TESSERA_INLINE ValueAndSlope operator()(Floats y, Floats t) const {
        const Floats power = simd::exp(-simd::magnitude(y)), one = simd::all(1.0f); // in (0, 1]
        const Floats grown = power + 1.0f;
        const Floats accurate = simd::log(grown) * (power / (grown - 1.0f)); // log(1 + power), also of a small one
        const Floats logarithm = grown == 1.0f ? power : accurate;
        const Floats softplus = logarithm + simd::max(-y, Floats{}); // log(1 + exp(-y))
        const Floats weight = t * more + 1.0f;
        const Floats complement = (y >= 0.0f ? power : one) / grown; // 1 / (1 + exp(y))
        return {(1.0f - t) * y + weight * softplus, (1.0f - t) - weight * complement};
    }
};

// dy may be null: losses alone.
template <class F, class T>
TESSERA_MULTIVERSION void loss_rows(const F& f, const T* y, const float* targets, float share, float scale,
                                    std::int64_t columns, std::int64_t begin, std::int64_t end, float* losses, T* dy) {
    for (std::int64_t row = begin; row < end; ++row) {
        const T* of_row = y + row * columns;
        const float* wanted = targets + row * columns;
        Floats sum{};
        simd::for_columns(columns, [&](std::int64_t c, auto width) TESSERA_INLINED {
            const ValueAndSlope found = f(simd::load(of_row + c, width), simd::load(wanted + c, width));
            if constexpr (std::is_same_v<F, Binary> && !std::is_same_v<decltype(width), simd::Full>) {
                float part[simd::lanes]; // log 2 where there is no number
                simd::store(part, found.value);
                sum += simd::load(part, width);
            } else {
                sum += found.value;
            }
            if (dy != nullptr) simd::store(dy + row * columns + c, found.slope * scale, width);
        });
        losses[row] = simd::sum(sum) * share;
    }
}

template <class Work> void with_loss(const PointwiseLoss& loss, const Work& work) {
    switch (loss.kind) {
    case PointwiseLoss::Kind::squared:
        return work(Squared(loss));
    case PointwiseLoss::Kind::absolute:
        return work(Absolute(loss));
    case PointwiseLoss::Kind::huber:
        return work(Huber(loss));
    case PointwiseLoss::Kind::binary:
        return work(Binary(loss));
    }
}

void run(CpuStream& stream, std::string_view kernel, const PointwiseLoss& loss, std::int64_t count, ConstView y,
         ConstView targets, float scale, View losses, View dy) {
    const std::int64_t rows = losses.count(), columns = rows == 0 ? 0 : y.count() / rows;
    check_count(kernel, "y", y, rows * columns);
    check_count(kernel, "targets", targets, y.count());
    if (dy) check_count(kernel, "dy", dy, y.count());
    const float share = 1.0f / static_cast<float>(count);
    with_float_type(kernel, y.dtype, [&]<class T>() {
        T* gradient = dy ? dy.as<T>() : nullptr;
        with_loss(loss, [&](const auto& f) {
            const auto work = [&](std::int64_t begin, std::int64_t end) {
                loss_rows(f, y.as<T>(), targets.as<float>(), share, share * scale, columns, begin, end,
                          losses.as<float>(), gradient);
            };
            stream.parallel(rows, rows_per_thread(columns, elements_per_thread), std::ref(work));
        });
    });
}

} // namespace

void pointwise_loss(CpuStream& stream, const PointwiseLoss& loss, std::int64_t count, ConstView y, ConstView targets,
                    View losses) {
    run(stream, "pointwise_loss", loss, count, y, targets, 0, losses, {});
}

void pointwise_loss_with_gradient(CpuStream& stream, const PointwiseLoss& loss, std::int64_t count, ConstView y,
                                  ConstView targets, ConstView scale, View losses, View dy) {
    check_count("pointwise_loss_with_gradient", "scale", scale, 1);
    run(stream, "pointwise_loss_with_gradient", loss, count, y, targets, *scale.as<float>(), losses, dy);
}

} // namespace tessera::kernels
