// SPDX-License-Identifier: Apache-2.0
// The hosts of a run and the ranks that each takes, as a person lists them. Pure, but for read_hostfile.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

struct HostSlots {
    std::string name;
    std::int64_t slots = 1; // ranks that it takes
    bool operator==(const HostSlots&) const = default;
};

// "a:8,b:8,c". Throws ConfigError, opening with "--hosts", for what is no host, for a host that stands there twice, and
// for slots that are no number.
std::vector<HostSlots> parse_hosts(const std::string& text);

// A host a line: "a slots=8" (as Open MPI's host files), "a:8" or "a"; '#' opens a comment. ConfigError "PATH:LINE: …".
std::vector<HostSlots> parse_hostfile(const std::string& text, const std::string& path);
std::vector<HostSlots> read_hostfile(const std::string& path);

std::int64_t slots_of(const std::vector<HostSlots>& hosts);

// So many ranks on the hosts in their order, each filled before the next; hosts without ranks are left out. ConfigError
// when there are fewer slots.
std::vector<HostSlots> share_ranks(std::int64_t ranks, const std::vector<HostSlots>& hosts);

std::string text_of(const std::vector<HostSlots>& hosts); // "a:8,b:8"

} // namespace tessera
