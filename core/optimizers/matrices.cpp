// SPDX-License-Identifier: Apache-2.0
// Which dims of a parameter are outputs.
#include "core/optimizers/matrices.hpp"

namespace tessera {

Matrices matrices_of(const Value& parameter) {
    const Shape& shape = parameter.type.shape;
    const std::string& role = parameter.parameter->role;
    if (role.starts_with("expert") && shape.rank() > 2) return {shape[0], shape[1], shape.count(2, shape.rank())};
    if (role == "recurrent" && shape.rank() == 4) return {shape[0], shape[1] * shape[2], shape[3]};
    const bool makes_heads = shape.rank() > 1 && role.starts_with("head") && role != "head_output";
    const std::int64_t columns = makes_heads ? shape[-1] : shape.count(1, shape.rank());
    return {1, columns == 0 ? 0 : shape.count() / columns, columns};
}

} // namespace tessera
