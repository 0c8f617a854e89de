// SPDX-License-Identifier: Apache-2.0
// Shapes and element types: the few functions that are not worth inlining.
#include "kernels/tensor.hpp"

#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <fmt/format.h>

namespace tessera {
namespace {

constexpr std::array<std::string_view, 6> dtype_names = {"f32", "bf16", "f16", "i32", "f8e4m3", "f8e5m2"};
constexpr std::array<std::int64_t, 6> dtype_bytes = {4, 2, 2, 4, 1, 1};

} // namespace

std::int64_t bytes_of(DType dtype) { return dtype_bytes[static_cast<std::size_t>(dtype)]; }

std::string_view name_of(DType dtype) { return dtype_names[static_cast<std::size_t>(dtype)]; }

DType dtype_named(std::string_view name) {
    for (std::size_t i = 0; i < dtype_names.size(); ++i)
        if (dtype_names[i] == name) return static_cast<DType>(i);
    throw ConfigError(no_such_name("dtype", name, {dtype_names.begin(), dtype_names.end()}));
}

Shape::Shape(std::initializer_list<std::int64_t> sizes) {
    for (const std::int64_t size : sizes)
        append(size);
}

void Shape::append(std::int64_t size) {
    if (rank_ == max_rank) throw InternalError(fmt::format("a shape has at most {} dims", max_rank));
    if (size < 0) throw InternalError(fmt::format("dim {} of a shape is {}", rank_, size));
    sizes_[static_cast<std::size_t>(rank_++)] = size;
}

std::int64_t Shape::count(int first_dim, int end_dim) const {
    std::int64_t product = 1;
    for (int dim = first_dim; dim < end_dim; ++dim)
        product *= sizes_[static_cast<std::size_t>(dim)];
    return product;
}

Shape Shape::slice(int first_dim, int end_dim) const {
    Shape part;
    for (int dim = first_dim; dim < end_dim; ++dim)
        part.append((*this)[dim]);
    return part;
}

std::string Shape::text() const { return fmt::format("({})", fmt::join(sizes_.begin(), sizes_.begin() + rank_, ", ")); }

void ConstView::check_dtype(DType wanted) const {
    if (dtype != wanted)
        throw InternalError(fmt::format("a view of {} is used as {}", name_of(dtype), name_of(wanted)));
}

} // namespace tessera
