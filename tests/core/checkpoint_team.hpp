// SPDX-License-Identifier: Apache-2.0
// For the tests of checkpoints: ranks as threads, folders that go away, tensors whose every element says where it lies.
#pragma once

#include "core/checkpoint/checkpoint.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <barrier>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <functional>
#include <numeric>
#include <stdlib.h>
#include <string>
#include <thread>
#include <vector>

namespace tessera {

// Runs work(team) on `size` threads. What each threw as text ("" for nothing).
inline std::vector<std::string> run_team(int size, const std::function<void(const Team&)>& work) {
    std::barrier meet(size);
    std::vector<std::string> texts(static_cast<std::size_t>(size)), failures(static_cast<std::size_t>(size));
    std::vector<char> words(static_cast<std::size_t>(size));
    std::string word;
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size; ++rank)
        threads.emplace_back([&, rank] {
            Team team{rank, size, nullptr, nullptr, nullptr};
            team.gather = [&, rank](const std::string& text) {
                texts[static_cast<std::size_t>(rank)] = text;
                meet.arrive_and_wait();
                std::vector<std::string> all;
                if (rank == 0) all = texts;
                meet.arrive_and_wait();
                return all;
            };
            team.broadcast = [&, rank](const std::string& text) {
                if (rank == 0) word = text;
                meet.arrive_and_wait();
                std::string copy = word;
                meet.arrive_and_wait();
                return copy;
            };
            team.all = [&, rank](bool say) {
                words[static_cast<std::size_t>(rank)] = say ? 1 : 0;
                meet.arrive_and_wait();
                const bool everybody = std::count(words.begin(), words.end(), 0) == 0;
                meet.arrive_and_wait();
                return everybody;
            };
            try {
                work(team);
            } catch (const std::exception& error) {
                failures[static_cast<std::size_t>(rank)] = error.what();
            }
        });
    for (std::thread& thread : threads)
        thread.join();
    return failures;
}

// A new folder under the system's place for temporary files, or whose path begins so; removed at the end.
class ScratchFolder {
public:
    explicit ScratchFolder(std::string name = std::filesystem::temp_directory_path() / "tessera-checkpoint-") {
        name += "XXXXXX";
        if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
        path_ = name;
    }
    ScratchFolder(const ScratchFolder&) = delete;
    ScratchFolder& operator=(const ScratchFolder&) = delete;
    ~ScratchFolder() { std::filesystem::remove_all(path_); }

    std::string path() const { return path_.string(); }
    std::string path(const std::string& below) const { return (path_ / below).string(); }

private:
    std::filesystem::path path_;
};

// Memory of a box, as bytes.
struct BoxMemory {
    std::vector<std::int64_t> start;
    Shape count;
    DType dtype = DType::f32;
    std::vector<std::byte> bytes;

    BoxMemory(std::vector<std::int64_t> first, const Shape& shape, DType type)
        : start(std::move(first)), count(shape), dtype(type),
          bytes(static_cast<std::size_t>(shape.count() * bytes_of(type))) {}
    View view() { return {bytes.data(), count, dtype}; }
};

// The element of tensor `seed` at the linear place `place` of the whole tensor: 2 or 4 bytes without a pattern, and as
// bf16 never NaN, whose bits a conversion may change.
inline std::uint32_t element_bits(std::uint32_t seed, std::int64_t place) {
    std::uint64_t word = static_cast<std::uint64_t>(place) * 0x9e3779b97f4a7c15u + seed * 0xbf58476d1ce4e5b9u;
    word ^= word >> 29;
    word *= 0x94d049bb133111ebu;
    return static_cast<std::uint32_t>(word >> 32) & ~0x80u;
}

// Calls use(linear place in the whole tensor, address in the box) for each element of the box, by plain counting.
inline void each_element(const Shape& whole, BoxMemory& box, const std::function<void(std::int64_t, std::byte*)>& use) {
    for (std::int64_t i = 0; i < box.count.count(); ++i) {
        std::int64_t place = 0, scale = 1, rest = i;
        for (int dim = whole.rank() - 1; dim >= 0; --dim) {
            place += (rest % box.count[dim] + box.start[static_cast<std::size_t>(dim)]) * scale;
            rest /= box.count[dim];
            scale *= whole[dim];
        }
        use(place, box.bytes.data() + i * bytes_of(box.dtype));
    }
}

inline void fill(const Shape& whole, std::uint32_t seed, BoxMemory& box) {
    each_element(whole, box, [&](std::int64_t place, std::byte* address) {
        const std::uint32_t bits = element_bits(seed, place);
        std::memcpy(address, &bits, static_cast<std::size_t>(bytes_of(box.dtype)));
    });
}

inline std::int64_t wrong_elements(const Shape& whole, std::uint32_t seed, BoxMemory& box) {
    std::int64_t wrong = 0;
    each_element(whole, box, [&](std::int64_t place, std::byte* address) {
        const std::uint32_t bits = element_bits(seed, place);
        wrong += std::memcmp(address, &bits, static_cast<std::size_t>(bytes_of(box.dtype))) != 0;
    });
    return wrong;
}

inline std::string text_of_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_file(const std::string& path, const std::string& text) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

// Two ranks: 'w' (4, 6) f32 by rows, 'state/w' (4, 6) i32 by columns, 's' () bf16 on rank 1.
inline CheckpointContent small_content(const Team& team, std::int64_t step, std::vector<BoxMemory>& memory) {
    const std::int64_t rank = team.rank;
    const auto seed = static_cast<std::uint32_t>(step);
    memory.emplace_back(std::vector<std::int64_t>{rank * 2, 0}, Shape{2, 6}, DType::f32);
    fill({4, 6}, seed, memory.back());
    memory.emplace_back(std::vector<std::int64_t>{0, rank * 3}, Shape{4, 3}, DType::i32);
    fill({4, 6}, seed + 1, memory.back());
    CheckpointContent content{step, {{"seed", "7"}}, {}};
    content.tensors = {{"w", {4, 6}, DType::f32, memory[0].start, memory[0].view()},
                       {"state/w", {4, 6}, DType::i32, memory[1].start, memory[1].view()}};
    if (rank == 0) return content;
    memory.emplace_back(std::vector<std::int64_t>{}, Shape{}, DType::bf16);
    fill({}, seed + 2, memory.back());
    content.tensors.push_back({"s", {}, DType::bf16, {}, memory[2].view()});
    return content;
}

// The folder of a small checkpoint of two ranks.
inline std::string save_small(const std::string& folder, std::int64_t step) {
    for (const std::string& failure : run_team(2, [&](const Team& team) {
             std::vector<BoxMemory> memory;
             save_checkpoint(team, folder, small_content(team, step, memory));
         }))
        if (!failure.empty()) throw std::runtime_error(failure);
    return fmt::format("{}/step-{:08d}", folder, step);
}

// What opening and reading everything says; "" when all is well.
inline std::string complaint(const std::string& folder) {
    try {
        Checkpoint(folder).verify();
        return "";
    } catch (const ConfigError& error) {
        return error.what();
    }
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

} // namespace tessera
