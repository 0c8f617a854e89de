// SPDX-License-Identifier: Apache-2.0
// What a search for layouts may set the keys of a config to.
#pragma once

#include "core/run/layout_search.hpp"

namespace tessera {

// In what order the stages of a pipeline work.
struct ScheduleChoice {
    std::string name;
    std::int64_t chunks = 1; // of a stage
};

// Layouts that differ in the outer axes of the mesh (pipeline, replica and data) only.
struct LayoutGroup {
    Choices inner; // degrees of the other axes, and sequence parallelism
    int ranks = 1; // of these axes
    std::vector<Choices> outer;
};

// The degree of a key "parallelism.…_degree"; 1 where it is not among the choices.
std::int64_t degree_in(const Choices& choices, std::string_view key);
std::int64_t data_ranks_in(const Choices& choices); // of all replicas
std::int64_t replicas_in(const Choices& choices);

// What the command line says of a key stays as it is.
class LayoutChoices {
public:
    // Config and options outlive it.
    LayoutChoices(const Config& config, const SearchOptions& options, std::int64_t ranks_per_node);

    // All ways to write the ranks as a product of degrees: of those that a model has no use for, where their degree is
    // -1 only. Replicas are of whole nodes. ConfigError for a degree on the command line that does not divide the
    // ranks.
    std::vector<LayoutGroup> groups() const;
    // Of a micro-batch: powers of two, and what the config says. ConfigError without a global batch size.
    std::vector<std::int64_t> rows() const;
    // Interleaved where the layers can be dealt out evenly. gpipe takes as long as 1f1b and more memory.
    std::vector<ScheduleChoice> schedules(std::int64_t stages) const;
    std::vector<std::int64_t> zero_stages(const Choices& outer) const;
    std::vector<std::string> recomputations() const; // the least first

    // How many layouts of the group have such micro-batches.
    std::int64_t count(const LayoutGroup& group, std::int64_t rows) const;

private:
    bool is_given(std::string_view key) const { return config_.where(key) == "command line"; }
    bool is_searched(std::string_view key) const;
    bool is_sensible(const Choices& mesh) const;
    std::vector<Choices> meshes() const;
    template <class T> std::vector<T> values(const Key<T>& key, bool matters, std::vector<T> all) const;

    const Config& config_;
    const SearchOptions& options_;
    std::int64_t ranks_per_node_;
    bool reads_text_, convolves_;
};

} // namespace tessera
