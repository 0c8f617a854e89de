// SPDX-License-Identifier: Apache-2.0
// Weights by the names and in the shapes that a model here has, wherever they lie: in a file, in a folder of another
// program, in a checkpoint.
#pragma once

#include "core/checkpoint/checkpoint.hpp"
#include "core/formats/weight_file.hpp"

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace tessera {

class WeightSource {
public:
    virtual ~WeightSource() = default;

    virtual const std::string& path() const = 0; // opens error messages
    virtual const std::map<std::string, std::string>& metadata() const = 0;
    virtual std::optional<std::int64_t> vocabulary() const = 0; // of the token table; nothing: it has none

    virtual bool has(const std::string& name) const = 0;
    // Of a tensor that is there; where that is not known, `wanted`.
    virtual Shape shape_of(const std::string& name, const Shape& wanted) const = 0;
    // ConfigError unless the tensor is there, in this shape, as numbers with a fraction.
    virtual void require(const std::string& name, const Shape& whole) const = 0;
    // Fills `part`, which is f32, with the box of its shape that begins at `start`, of a tensor for which require() has
    // passed with `whole`.
    virtual void read(const std::string& name, const Shape& whole, const std::vector<std::int64_t>& start,
                      const View& part) const = 0;

    // What it holds that makes none of these tensors, by its own names, without states of an optimizer.
    virtual std::vector<std::string> beside(const std::set<std::string>& names) const = 0;
};

// A safetensors file with the names of a checkpoint here, or llm.c's.
class FileWeights final : public WeightSource {
public:
    explicit FileWeights(WeightFile file) : file_(std::move(file)) {}

    const std::string& path() const override { return file_.path(); }
    const std::map<std::string, std::string>& metadata() const override { return file_.metadata(); }
    std::optional<std::int64_t> vocabulary() const override;
    bool has(const std::string& name) const override { return file_.find(name) != nullptr; }
    Shape shape_of(const std::string& name, const Shape& wanted) const override {
        const StoredTensor* found = file_.find(name);
        return found == nullptr ? wanted : found->shape;
    }
    void require(const std::string& name, const Shape& whole) const override;
    void read(const std::string& name, const Shape& whole, const std::vector<std::int64_t>& start,
              const View& part) const override;
    std::vector<std::string> beside(const std::set<std::string>& names) const override;

private:
    WeightFile file_;
};

// The elements of `part`, a box of a tensor of shape `whole` that begins at `start`, as runs that lie together in the
// tensor: read(first element in the tensor, the run's part).
void for_each_run_of(const Shape& whole, const std::vector<std::int64_t>& start, const View& part,
                     const std::function<void(std::int64_t, const View&)>& read);

} // namespace tessera
