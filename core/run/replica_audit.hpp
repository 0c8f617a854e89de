// SPDX-License-Identifier: Apache-2.0
// Whether ranks that should hold the same weights and optimizer states do, to the last bit: memory and links err, and
// replicas that have parted train on without a sign of it.
#pragma once

#include "core/log.hpp"
#include "core/run/executor.hpp"
#include "core/run/experiment.hpp"
#include "core/run/ground.hpp"

#include <string>
#include <vector>

namespace tessera {

inline constexpr Key<std::int64_t> audit_interval{
    "guard.audit_interval", 100, "steps between comparisons of what several ranks hold alike, bit by bit; 0: never"};
inline constexpr Key<std::string> audit_policy{
    "guard.audit_policy", "stop", "where ranks differ: stop, or repair: the odd ones out take what most ranks hold"};

class ReplicaAudit {
public:
    // All arguments outlive this.
    ReplicaAudit(const Ground& ground, const Experiment& experiment, const Executor& executor, Log& log);

    // Reads the keys above. Throws ConfigError for a wrong value.
    static void check_keys(const Config& config);

    bool due(std::int64_t steps_done) const;

    // Called by all ranks together. Compares fingerprints (kernels/fingerprint.hpp) among the ranks that hold the same
    // part of the same tensor; under ZeRO a part of the data axis has one holder, and what is gathered from it for use
    // lives for a step. All ranks throw SystemError, which names tensors and ranks, when some differ and the
    // policy is to stop, or there is no majority to repair from.
    // Whether it has repaired something.
    bool run(std::int64_t steps_done);

private:
    struct Difference {
        std::size_t tensor = 0;       // of ids_
        std::vector<int> most, other; // ranks; `most` are equal
    };

    std::string marks();
    std::vector<Difference> compare(const std::vector<std::string>& marks) const;
    std::string sentence(const Difference& difference) const;
    void repair(const Difference& difference);

    Ground ground_;
    const Executor& executor_;
    Log& log_;
    std::int64_t interval_;
    bool repairs_;
    std::vector<ValueId> ids_; // weights and states
    std::vector<std::string> names_;
    std::vector<std::uint64_t> parts_; // which part of each this rank holds; 0: none
    Buffer memory_;                    // of the fingerprints, where the stream works: 8 bytes a tensor
};

} // namespace tessera
