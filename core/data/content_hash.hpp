// SPDX-License-Identifier: Apache-2.0
// The hash of a dataset's content: xxh3-128.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace tessera {

class ContentHash {
public:
    ContentHash();
    void add(const void* data, std::size_t bytes);
    void add(std::int64_t number) { add(&number, sizeof number); }
    template <class T> void add(std::span<const T> values) { add(values.data(), values.size_bytes()); }
    std::string text() const; // 32 hex digits

private:
    std::unique_ptr<void, void (*)(void*)> state_;
};

// xxh3-64 of some bytes, for tables in memory.
std::uint64_t short_hash(const void* data, std::size_t bytes, std::uint64_t seed = 0);

} // namespace tessera
